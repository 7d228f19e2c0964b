"""Assembled jobs, their options, and the command line."""
