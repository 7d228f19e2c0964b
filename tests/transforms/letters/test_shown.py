"""How payloads are shown: in one line, or whole; never what moves a terminal's cursor."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field
from millstream.schemas.masking import Masking
from millstream.transforms.letters.shown import (
    FOREIGN,
    LONGEST,
    NOT_SHOWN,
    Showing,
    hexdump,
    shown,
    shown_whole,
)

OPEN = Contract("c", "1", "c", (Field("page", "string"),))
CLASSIFIED = Contract("c", "1", "c", (Field("mail", "string", classification="pii"), *OPEN.fields))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"a": "x"}', '{"a": "x"}'),
        ("ä🦉".encode(), "ä🦉"),
        (b"a\xffb", "a\\xffb"),
        (b"a\r\n\tb\x1b[31m", "a\\r\\n\\tb\\x1b[31m"),
        (b"", ""),
        (None, "(its bytes are not held)"),
        (b"x" * LONGEST, "x" * LONGEST),
        (b"x" * (LONGEST + 1), "x" * LONGEST + "…"),
        (b"x" * 100_000, "x" * LONGEST + "…"),
    ],
)
def test_in_a_line(payload, said):
    assert shown(payload) == said


@given(st.binary(max_size=600))
def test_a_line_is_a_line_that_can_be_printed(payload):
    line = shown(payload)
    assert len(line) <= LONGEST + 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    line.encode()


def test_whole():
    text = b'{\r\n\t"a": "\xc3\xa4"}' * 100
    assert shown_whole(text) == text.decode()
    assert shown_whole(b"\x1b[31m").startswith("00000000  1b 5b 33 31 6d  ")
    assert shown_whole(b"\xff").endswith("|.|")
    assert shown_whole(None) == "(its bytes are not held)"


@given(st.binary(max_size=200))
def test_a_dump_holds_every_byte(data):
    lines = hexdump(data).splitlines()
    numbers = [line[10:57] for line in lines]
    assert b"".join(bytes.fromhex(each) for each in numbers) == data
    assert [int(line[:8], 16) for line in lines] == list(range(0, len(data), 16))


def letter(contract_id: str | None, **more: Any) -> dict[str, Any]:
    found = [("mail", "expected an e-mail address, got 'x@y', or so"), ("page", "got 'z'")]
    violations = [{"code": "TYPE", "field": f, "message": m} for f, m in found]
    said = {"errorMessage": "wrong: x@y", "violations": violations, "contract_id": contract_id}
    return {**said, **more}


@pytest.mark.parametrize("showing", [Showing(reveal=True), Showing(Masking(OPEN))])
def test_what_is_not_hidden(showing):
    assert showing.message(letter(None)) == "wrong: x@y"
    assert showing.violations(letter(None))[0][2].endswith("got 'x@y', or so")
    assert showing.stacktrace("at x@y") == "at x@y"
    assert showing.payload(b"x@y", None) == b"x@y"
    assert showing.attributes([{"key": "kafka.key", "value": "x@y"}]) == [("kafka.key", "x@y")]


def test_messages_of_fields_that_were_classified_later():
    showing = Showing(Masking(CLASSIFIED))
    hidden = "expected an e-mail address, got a value not shown"
    assert showing.violations(letter("c")) == [
        ("TYPE", "mail", hidden),
        ("TYPE", "page", "got 'z'"),
    ]
    assert showing.message(letter("c")) == f"mail: {hidden}; page: got 'z'"


def test_where_nobody_knows_what_is_classified_messages_repeat_no_value():
    message = "expected an integer, got 'x'"
    violations = [{"code": "TYPE", "field": "page", "message": message}]
    found = letter("c", violations=violations)
    assert Showing(Masking(CLASSIFIED)).message(found) == f"page: {message}"
    assert Showing().message(found) == "page: expected an integer, got a value not shown"


@pytest.mark.parametrize("showing", [Showing(), Showing(Masking(CLASSIFIED))])
def test_what_others_say_is_not_shown(showing):
    assert showing.message(letter(None)) == f"mail: {FOREIGN}; page: {FOREIGN}"
    assert showing.message(letter(None, violations=None)) == FOREIGN
    assert showing.message(letter(None, violations=[], errorMessage=None)) is None
    assert showing.stacktrace("at x@y") == FOREIGN
    pairs = [{"key": "kafka.key", "value": "x@y"}, {"key": "format", "value": "csv"},
             {"key": "kafka.header.n", "value": None}]  # fmt: skip
    masked = "***" if showing.masking else NOT_SHOWN
    assert showing.attributes(pairs) == [
        ("kafka.key", masked), ("format", "csv"), ("kafka.header.n", "None")
    ]  # fmt: skip
