"""A Delta table: ``delta:PATH?mode=…``, on a local disk, ``s3://`` or ``gs://``."""

from .destination import open_destination as open_destination
