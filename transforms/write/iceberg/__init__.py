"""A table of an Iceberg catalog, whatever catalog pyiceberg knows."""

from .destination import open_destination as open_destination
