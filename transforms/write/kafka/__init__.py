"""A topic of Kafka: rows and token are one transaction of its producer."""

from .destination import open_destination as open_destination
