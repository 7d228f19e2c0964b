"""Sources: each gives batches of raw payloads with their positions."""

from .json_lines import ReadFromJsonLines

__all__ = ["ReadFromJsonLines"]
