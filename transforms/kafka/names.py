"""The environment's variables that say how to come in."""

from __future__ import annotations

CONFIG_VARIABLE = "MILLSTREAM_KAFKA_CONFIG"
"""Names the file of librdkafka's settings, where the URI does not."""
CREDENTIALS_VARIABLE = "SCHEMA_REGISTRY_BASIC_AUTH"
"""The schema registry's ``USER:PASSWORD``."""
