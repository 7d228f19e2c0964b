"""YAML as it is read from files that nobody vouches for."""

from __future__ import annotations

from typing import Any

import pytest
from millstream.schemas.contract import ContractError
from millstream.schemas.documents import read_document


def error_of(text: str) -> str:
    with pytest.raises(ContractError) as caught:
        read_document(text, "c.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml:1: the document is empty"),
        ("# nothing\n", "c.yaml:1: the document is empty"),
        ("- a\n- b\n", "c.yaml:1: expected a mapping, found a list"),
        ("hello", "c.yaml:1: expected a mapping, found a single value"),
        ("a: 1\nb: [1,\nc: 2\n", "c.yaml:3: not valid YAML: "),
        ("a: 1\n\tb: 2\n", "c.yaml:2: not valid YAML: "),
        ("a: 1\nb: \x00\n", "c.yaml:2: not valid YAML: "),
        ("a: \ud800\n", "c.yaml:1: not valid YAML: "),
        ("a: 1\n---\nb: 1\n", "c.yaml:2: not valid YAML: expected a single document"),
        ("a: *b\n", "c.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: the key 'a' is given twice, first on line 1"),
        ("[a]: 1\n", "c.yaml:1: expected a word as key"),
        ("a: !!python/object/apply:os.getcwd []\n", "c.yaml:1: the tag "),
        ("a: !mine x\n", "c.yaml:1: the tag '!mine' is not allowed"),
        ("a: !!int x\n", "c.yaml:1: 'x' is not what its tag says"),
        ("a: &a [*a]\n", "c.yaml:1: nested deeper than 100 levels"),
        ("a: &a\n  <<: *a\n", "c.yaml:1: nested deeper than 100 levels"),
        ("a:\n  <<: 5\n", "c.yaml:2: expected a mapping to merge with <<"),
        ("a: " + "[" * 5000, "c.yaml:1: not valid YAML: "),
        ("a: " + "[" * 101 + "]" * 101, "c.yaml:1: nested deeper than 100 levels"),
    ],
)
def test_no_document(text: str, message: str):
    assert error_of(text).startswith(message)


@pytest.mark.slow
def test_aliases_that_multiply():
    text = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    assert "more than 250,000 values" in error_of(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("012", "012"),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("10:30", "10:30"),
        ("10:30:00", "10:30:00"),
        ("2026-11-24", "2026-11-24"),
        ("1_000", "1_000"),
        (".inf", float("inf")),
        ("'5'", "5"),
        ("!!str 5", "5"),
    ],
)
def test_words_are_those_of_yaml_1_2(text: str, value: Any):
    assert read_document(f"a: {text}", "x").value == {"a": value}


def test_lines_are_those_of_keys_and_entries():
    document = read_document("a:\n  b: [1,\n    2]\n  c: 1.50\n", "x")
    assert document.lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 2,
        ("a", "b", 1): 3,
        ("a", "c"): 4,
    }
    assert document.numbers == {("a", "c"): "1.50"}
