"""Dead letters that come back: read again, judged again, and committed once more."""
