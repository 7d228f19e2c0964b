"""Streams of Amazon Kinesis: what can be read, and how, is said in :mod:`.inputs`."""
