"""Fixtures for the tests of transforms."""

import os
from pathlib import Path

import msgspec
import pytest

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def golden():
    """Compare a stored structure, as JSON, with ``tests/golden/<name>.json``.

    Formats are read by later versions: a difference here is a new format version, not a new golden
    file. ``MILLSTREAM_WRITE_GOLDEN=1`` writes the files of formats that are new.
    """

    def compare(name, value):
        path = GOLDEN / f"{name}.json"
        data = value if isinstance(value, bytes) else msgspec.json.encode(value)
        data = msgspec.json.format(data, indent=2) + b"\n"
        if os.environ.get("MILLSTREAM_WRITE_GOLDEN") and not path.exists():
            path.write_bytes(data)
        assert data.decode() == path.read_text("utf-8")

    return compare


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk():
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda handle: None)
    yield
    patch.undo()
