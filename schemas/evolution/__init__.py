"""Contracts over time: what changed between two versions, and whom it breaks."""
