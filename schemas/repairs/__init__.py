"""Declared repairs: what is tried on records that break their contract."""
