"""What ``stream.py`` runs: the alternatives, the feeding of topics, and the reference.

Each alternative is a script of its own with ``--broker``, ``--topic`` and ``--out``. It reads the
whole topic, and writes ``OUT/page_views`` (Parquet, or CSV) and ``OUT/dead_letters`` (JSON lines).
"""
