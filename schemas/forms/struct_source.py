"""A contract as the source of msgspec Structs, for programs that make or read its records."""

from __future__ import annotations

import keyword
import re

from ..contract import Contract, Field

_SCALARS = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "decimal": "Decimal",
    "boolean": "bool",
    "date": "date",
    "timestamp": "datetime",
    "time": "time",
    "json": "Any",
}
_HEADER = '''"""{title}: made from contract {id}, version {version}."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import msgspec
'''


def struct_source(contract: Contract) -> str:
    """A Python module with one Struct for the record and one for each of its objects.

    A field whose name Python cannot spell gets another one and msgspec's ``rename``.
    """
    classes: list[str] = []
    _struct(_class_name(contract.name), contract.fields, classes, set())
    header = _HEADER.format(
        title=_plain(contract.name), id=_plain(contract.id), version=_plain(contract.version)
    )
    return "\n\n".join([header, *classes])


def _struct(name: str, fields: tuple[Field, ...], classes: list[str], taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    lines, names = [], set()
    for field in sorted(fields, key=lambda f: not f.required):  # no default after a default
        attribute = _attribute(field.name, names)
        names.add(attribute)
        kind = _type(field, f"{name}{_class_name(field.name)}", classes, taken)
        if attribute == field.name:
            default = "" if field.required else " = None"
        else:
            said = [f"name={field.name!r}"] if field.required else ["default=None"]
            said += [] if field.required else [f"name={field.name!r}"]
            default = f" = msgspec.field({', '.join(said)})"
        lines.append(f"    {attribute}: {kind}{'' if field.required else ' | None'}{default}")
    body = "\n".join(lines) or "    pass"
    classes.append(f"class {name}(msgspec.Struct, kw_only=True):\n{body}\n")
    return name


def _type(field: Field, name: str, classes: list[str], taken: set[str]) -> str:
    if field.type == "object":
        return _struct(name, field.fields, classes, taken)
    if field.type == "array":
        assert field.items is not None
        item = _type(field.items, name, classes, taken)
        return f"list[{item if field.items.required else f'{item} | None'}]"
    return _SCALARS[field.type]


def _class_name(name: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", name)
    made = "".join(word[0].upper() + word[1:] for word in words) or "Record"
    return made if made[0].isalpha() else f"R{made}"


def _attribute(name: str, taken: set[str]) -> str:
    made = name
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name) or name[0] == "_":
        made = "f_" + re.sub(r"\W", "_", name, flags=re.ASCII)
    while made in taken:
        made += "_"
    return made


def _plain(text: str) -> str:
    """Text that can stand in a docstring, whatever it holds."""
    return re.sub(r'[\\"\r\n]', " ", text)
