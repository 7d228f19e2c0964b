"""Kafka and its schema registry: what reading and writing have in common."""
