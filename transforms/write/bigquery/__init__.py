"""A table of BigQuery."""

from .destination import open_destination as open_destination
