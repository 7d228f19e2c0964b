"""``python -m millstream.pipelines.ingest``: the same as ``millstream ingest``."""

from __future__ import annotations

import sys

from .cli import main as command


def main() -> int:
    """Run the job that the process's arguments describe."""
    return command(["ingest", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
