"""A topic of Google Pub/Sub: ``pubsub://PROJECT/TOPIC?ordering_key=FIELD,…``. At least once."""

from .destination import open_destination as open_destination
