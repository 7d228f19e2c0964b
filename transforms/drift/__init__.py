"""Drift of a run: gathered from its dead letters and its records, judged, reported, evolved."""
