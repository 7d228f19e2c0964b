"""Aggregates: windows, metrics, and the partial states that they are kept as."""
