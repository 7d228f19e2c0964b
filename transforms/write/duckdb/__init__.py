"""A table of a DuckDB file."""

from .destination import open_destination as open_destination
