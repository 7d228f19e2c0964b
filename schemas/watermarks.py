"""Watermarks beyond all others, in microseconds since 1970-01-01 UTC."""

NEVER = -(1 << 62)
"""A watermark before all times: nothing has been seen."""
FOREVER = 1 << 62
"""A watermark after all times."""
