"""A table of PostgreSQL, 15 or later."""

from .destination import open_destination as open_destination
