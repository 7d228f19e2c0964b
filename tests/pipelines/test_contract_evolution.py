"""``millstream contract diff`` and ``contract compatible``: what they print, and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from millstream.pipelines.cli import main

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: shop
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, primaryKey: true, logicalTypeOptions: {minimum: 1}}
  - {name: state, logicalType: string, enum: [{value: open}, {value: paid}]}
"""


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = "  - {name: note, logicalType: string}\n"
    stricter = CONTRACT.replace("minimum: 1", "minimum: 10").replace("1.0.0", "2.0.0")
    for name, text in (
        ("old", CONTRACT),
        ("wider", CONTRACT.replace("1.0.0", "1.1.0") + more),
        ("stricter", stricter),
    ):
        Path(f"{name}.yaml").write_text(text, "utf-8")


@pytest.mark.usefixtures("versions")
def test_a_diff_is_a_table_with_examples(capsys: pytest.CaptureFixture[str]):
    assert main(["contract", "diff", "old.yaml", "stricter.yaml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "orders: contract shop, version 1.0.0 → 2.0.0"
    cells = [line.split() for line in lines[1:4]]
    assert cells == [
        ["field", "change", "before", "after", "writers", "readers"],
        ["version", "changed", "1.0.0", "2.0.0", "fine", "fine"],
        ["id", "rule", "tightened", "minimum", "1", "minimum", "10", "breaks", "fine"],
    ]
    assert lines[4].startswith('id: refused from now on: {"id":')
    assert lines[5] == "2 changes, 1 breaking"


@pytest.mark.usefixtures("versions")
def test_nothing_breaks(capsys: pytest.CaptureFixture[str]):
    assert main(["contract", "diff", "old.yaml", "wider.yaml"]) == 0
    assert "2 changes, none breaking" in capsys.readouterr().out
    assert main(["contract", "diff", "old.yaml", "old.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no change"


@pytest.mark.usefixtures("versions")
def test_a_diff_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["contract", "diff", "old.yaml", "stricter.yaml", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["breaking"] == 1
    change = said["changes"][1]
    example = json.loads(change.pop("writers_example"))
    assert 1 <= example["id"] < 10
    assert change == {
        "path": "id", "change": "rule tightened", "before": "minimum 1", "after": "minimum 10",
        "writers": "breaks", "readers": "fine", "note": "", "readers_example": None,
    }  # fmt: skip


@pytest.mark.usefixtures("versions")
def test_compatible(capsys: pytest.CaptureFixture[str]):
    assert main(["contract", "compatible", "old.yaml", "wider.yaml"]) == 0
    assert capsys.readouterr().out == (
        "written under 1.0.0, read under 1.1.0: every record is read\n"
        "  note: note: only 1.1.0 names it; of a record that held it before, unread, it is judged "
        "now\n"
        "compatible (backward)\n"
    )
    assert main(["contract", "compatible", "old.yaml", "wider.yaml", "stricter.yaml"]) == 1
    said = capsys.readouterr().out
    assert "written under 1.1.0, read under 2.0.0: not every record is read\n" in said
    assert '  id: may break minimum 10\n    for example {"id":' in said
    assert "  note: note: not read (unknown_fields: ignore)\n" in said


@pytest.mark.usefixtures("versions")
def test_compatible_in_another_mode_as_json(capsys: pytest.CaptureFixture[str]):
    olds = ["old.yaml", "wider.yaml"]
    asked = ["contract", "compatible", *olds, "stricter.yaml", "--json", "--mode"]
    assert main([*asked, "forward_transitive"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [v["written_under"] for v in said["verdicts"]] == ["2.0.0", "2.0.0"]
    assert main([*asked, "full_transitive"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["compatible"]
    assert [v["compatible"] for v in said["verdicts"]] == [False, True, False, True]
    issue = said["verdicts"][0]["issues"][0]
    assert (issue["path"], issue["aspect"], issue["decided"]) == ("id", "minimum", True)


@pytest.mark.usefixtures("versions")
def test_unknown_fields_that_are_rejected(capsys: pytest.CaptureFixture[str]):
    asked = ["contract", "compatible", "wider.yaml", "old.yaml"]
    assert main(asked) == 0
    assert main([*asked, "--unknown_fields", "reject"]) == 1
    assert "note: is no longer named, and unknown fields are rejected" in capsys.readouterr().out


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize("command", ["diff", "compatible"])
def test_mistakes_exit_2(capsys: pytest.CaptureFixture[str], command: str):
    assert main(["contract", command, "old.yaml", "none.yaml"]) == 2
    assert capsys.readouterr().err == "none.yaml: cannot be read: No such file or directory\n"
    Path("bad.yaml").write_text(CONTRACT.replace("integer", "intger"), "utf-8")
    assert main(["contract", command, "bad.yaml", "old.yaml"]) == 2
    assert "bad.yaml:8 id.logicalType: no logical type" in capsys.readouterr().err
