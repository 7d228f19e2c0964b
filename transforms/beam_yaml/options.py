"""What a pipeline in YAML may say, read into what the transforms take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import yaml

from ...schemas.contract import Contract
from ...schemas.odcs import parse_contract
from ...schemas.problems import did_you_mean
from .. import storage
from ..schema_rows import FromSchemaRows
from ..schema_rows.types import named


class OptionError(ValueError):
    """An option that cannot be used. The message names it and says what would be right."""


def load(contract: Any, table: str | None = None, event_time: str | None = None) -> Contract:
    """A contract from its path, local or remote, or from the document itself.

    Raises:
        OptionError: it is neither, or cannot be read.
        ContractError: it is no contract that can be loaded.
    """
    if isinstance(contract, Mapping):
        text = yaml.safe_dump(dict(contract), sort_keys=False, allow_unicode=True)
        return parse_contract(text, "contract", schema=table, event_time=event_time)
    if not isinstance(contract, str):
        raise OptionError(f"contract: expected a path or an ODCS document, got {contract!r}")
    try:
        data = storage.read_bytes(storage.absolute(contract))
    except storage.StorageError as error:
        raise OptionError(
            f"contract: {contract} cannot be read: {error}; a relative path is taken from the "
            "folder that the pipeline is started in"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"contract: {contract} is not UTF-8") from error
    return parse_contract(text, contract, schema=table, event_time=event_time)


def error_output(error_handling: Any) -> str | None:
    """The name of the output for dead letters, if there is one.

    Raises:
        OptionError: what is said is not ``{output: NAME}``.
    """
    if error_handling is None:
        return None
    said = error_handling if isinstance(error_handling, Mapping) else {}
    name = said.get("output")
    if set(said) != {"output"} or not isinstance(name, str) or not name or name == GOOD:
        raise OptionError(
            f"error_handling: expected {{output: NAME}}, and NAME not to be {GOOD!r}, "
            f"got {error_handling!r}"
        )
    return name


GOOD = "good"
"""The name of the output of records, where there are others."""


def text_of(value: Any, option: str) -> str:
    """A text, and nothing that YAML takes for another value.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(value, str):
        raise OptionError(f"{option}: expected a text, got {value!r}")
    return value


def names_of(value: Any, option: str) -> list[str]:
    """A list of names, or a single one.

    Raises:
        OptionError: it is neither.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, Sequence) or not all(isinstance(n, str) for n in found):
        raise OptionError(f"{option}: expected a list of names, got {value!r}")
    return list(found)


def refuse_missing(wanted: Sequence[str], rows: beam.PCollection[Any], option: str) -> None:
    """See that rows have fields.

    Raises:
        OptionError: they lack one.
        SchemaRowsError: they have no schema.
    """
    there = FromSchemaRows.kinds_of(rows)
    for name in wanted:
        if name not in there:
            raise OptionError(
                f"{option}: the rows have no field {name!r}{did_you_mean(name, there)}; "
                f"they have {named(there)}"
            )
