"""ODCS documents, held against the standard's own model, with errors that name the place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..contract import ContractError
from ..problems import Place, did_you_mean, say

if TYPE_CHECKING:
    from open_data_contract_standard.model import OpenDataContractStandard

_NEWEST = (3, 2)


def read_standard(root: Place) -> OpenDataContractStandard:
    """The document as the standard's own model.

    Raises:
        ContractError: another kind of document, a value of another type, or a key that the
            standard does not have.
    """
    _check_heading(root)
    from open_data_contract_standard.model import OpenDataContractStandard
    from pydantic import ValidationError

    try:
        standard = OpenDataContractStandard.model_validate(root.document.value)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        known = OpenDataContractStandard.model_fields
        raise _validation_error(errors[0], [f.alias or n for n, f in known.items()], root) from None
    for i, table in enumerate(standard.schema_ or []):
        _check_keys(table, root["schema"][i])
    return standard


def _check_heading(root: Place) -> None:
    """Refuse what is no ODCS 3 document, before its shape is judged by the standard's model."""
    heading = root.document.value
    for key in ("kind", "apiVersion", "id", "version"):
        if heading.get(key) is None:
            raise root.error(f"no {key}: expected an ODCS data contract")
    if heading["kind"] != "DataContract":
        raise root["kind"].error(f"expected 'DataContract', found {say(heading['kind'])}")
    version = re.fullmatch(r"v?(\d)\.(\d{1,4})(\..*)?", str(heading["apiVersion"]))
    if not version or version[1] != "3":
        found = say(heading["apiVersion"])
        raise root["apiVersion"].error(f"expected ODCS 3 (such as v3.1.0), found {found}")
    if (3, int(version[2])) > _NEWEST:
        root["apiVersion"].find("newer than ODCS 3.2: what it adds is not known here")


_EXPECTED = {
    "string_type": "a string; write it in quotes",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "a list of two numbers",
    "too_long": "a list of two numbers",
}


def _validation_error(error: Any, top_level: Sequence[str], root: Place) -> ContractError:
    place = root
    for step in error["loc"]:
        value = place.value
        known = step in value if isinstance(value, dict) else isinstance(value, list)
        if not known:
            break  # a name of pydantic's own: a branch of a union
        place = place[step]
    if error["type"] == "extra_forbidden":
        return place.error(f"no such key in ODCS{did_you_mean(str(error['loc'][-1]), top_level)}")
    expected = _EXPECTED.get(error["type"]) or error["msg"]
    words = expected.partition(";")
    return place.error(f"expected {words[0]}, found {say(place.value)}{words[1]}{words[2]}")


_STRICT = frozenset(
    {"SchemaObject", "SchemaProperty", "MapDefinition", "EnumValue", "CustomProperty"}
)
_OPEN = frozenset({"DataQuality"})  # ODCS 3.0 lets a check have any keys


def _check_keys(model: Any, place: Place) -> None:
    """Refuse keys that the standard does not have: the model would ignore them."""
    kind = type(model).__name__
    if kind not in _STRICT | _OPEN:
        return
    known = {f.alias or name: name for name, f in type(model).model_fields.items()}
    for key in place.value:
        if key in known:
            continue
        hint = did_you_mean(key, known)
        if key == "validValues" and getattr(model, "rule", None) == key:
            continue  # ODCS 3.0
        if kind in _OPEN and not hint:
            place[key].find("no such key in ODCS: ignored")
            continue
        raise place[key].error(f"no such key in ODCS{hint}")
    for key, name in known.items():
        value = getattr(model, name)
        for at, child in _models(value, place[key]):
            _check_keys(child, at)


def _models(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _models(entry, place[i])
    elif hasattr(type(value), "model_fields"):
        yield place, value
