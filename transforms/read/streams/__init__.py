"""Streams: what a source of one has to do, and how it is read, to an end or without one."""
