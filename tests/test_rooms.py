"""The rooms keep their order: an import goes only downwards, and the light ones stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["pipelines", "transforms", "schemas"]


def imported(path: Path) -> list[str]:
    """The rooms and packages that a module imports, wherever it does so."""
    depth = len(path.relative_to(ROOT).parts) - 1
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = (node.module or "").split(".")
            if node.level == 0:
                found.append(names[1] if names[0] == "millstream" else names[0])
            elif node.level > depth:  # out of its room
                found += names[:1] if node.module else [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_goes_only_downwards(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    for path in (ROOT / room).rglob("*.py"):
        upwards = set(imported(path)) & set(above)
        assert not upwards, f"{path.relative_to(ROOT)} imports {upwards}"


@pytest.mark.slow
def test_schemas_know_no_beam() -> None:
    for path in (ROOT / "schemas").rglob("*.py"):
        assert "apache_beam" not in imported(path), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("millstream.pipelines.cli", ["apache_beam", "pyarrow", "pydantic", "numpy"]),
        ("millstream.transforms.decoding", ["apache_beam", "pydantic"]),
        ("millstream.transforms.read.files", ["apache_beam"]),
        ("millstream.transforms.runs", ["apache_beam"]),
        ("millstream.schemas.aggregates.states", ["apache_beam", "datasketches"]),
    ],
)
def test_what_must_start_fast_imports_nothing_heavy(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
