"""What is added to a table that exists, and what is refused, with the difference."""

import pytest
from millstream.transforms.write.evolution import Column, TableMismatch, additions


def columns(*said):
    """``"name TYPE"``, with ``!`` for NOT NULL."""
    pairs = ((text.rstrip("!").split(), text.endswith("!")) for text in said)
    return [Column(name, type, required) for (name, type), required in pairs]


def test_the_same_lacks_nothing():
    assert additions("t", columns("a INT!", "b TEXT"), columns("b TEXT", "a INT!")) == []


def test_what_lacks_is_added_and_may_be_null():
    found = additions("t", columns("a INT", "b TEXT!", "c DATE"), columns("a INT"))
    assert found == columns("b TEXT", "c DATE")


def test_a_table_may_have_more_and_ask_less():
    assert additions("t", columns("a INT!"), columns("a INT", "z TEXT")) == []


def test_a_wider_column_fits_where_the_destination_says_so():
    wider = {("INT", "BIGINT")}

    def fits(wanted, held):
        return wanted == held or (wanted, held) in wider

    assert additions("t", columns("a INT"), columns("a BIGINT"), fits) == []
    with pytest.raises(TableMismatch):
        additions("t", columns("a BIGINT"), columns("a INT"), fits)


def test_the_difference_is_told():
    wanted = columns("a INT", "b TEXT", "c DATE")
    held = columns("a TEXT", "b TEXT!", "z INT!")
    with pytest.raises(TableMismatch) as caught:
        additions("t", wanted, held)
    assert str(caught.value).splitlines()[:6] == [
        "table t does not fit what is to be written (- the table, + the contract):",
        "  - a TEXT",
        "  + a INT",
        "  - b TEXT NOT NULL",
        "  + b TEXT (may be null)",
        "  - z INT NOT NULL",
    ]
