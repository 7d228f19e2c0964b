"""Backfills: windows of the past made anew from the records, compared, and published."""
