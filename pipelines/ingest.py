"""``python -m millstream.pipelines.ingest``: the same as ``millstream ingest``."""

from __future__ import annotations

import sys

from .cli import command

if __name__ == "__main__":
    sys.argv.insert(1, "ingest")
    command()
