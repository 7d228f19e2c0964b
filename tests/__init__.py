"""Tests: each room has its own, and :mod:`tests.services` starts real peers."""
