"""Avro: its schemas, and datums to Arrow columns, strictly and fast."""
