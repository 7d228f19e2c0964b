"""Subscriptions of Google Pub/Sub as streams.

What can be read, and how, is said in :mod:`.inputs`; how each message comes to be read once in
:mod:`.stream`.
"""
