"""CSV records: the dialect, the grammar of a record, and text to typed columns."""
