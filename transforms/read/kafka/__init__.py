"""Topics of Kafka, read without Java and without Beam: what a topic holds, and its messages.

:mod:`.inputs` says what is to be read, :mod:`.bounds` from where to where, :mod:`.reader` reads.
"""
