"""The schema that an Avro writer used, understood: what its data are made of.

Source: the Avro specification 1.12, "Schema Declaration". Only what says how data are read is kept:
no defaults, aliases or documentation. A logical type that is not known, or that does not go with
its type, is left out, as the specification asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

MAX_DEPTH = 100
"""How deep a schema, or a value of a type that holds itself, may be nested."""
MAX_WIDTH = 20_000
"""How many types a schema may consist of, each counted wherever it is used: a few lines can name
one another so often that no memory holds their columns."""
MAX_FIXED_BYTES = 1 << 20
"""How long a fixed may be: even a null takes as many bytes of its column."""

Kind = Literal[
    "null", "boolean", "int", "long", "float", "double", "bytes", "fixed", "enum",
    "array", "map", "record", "union", "named",
]  # fmt: skip

_PRIMITIVES: dict[str, Kind] = {
    "null": "null",
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "bytes": "bytes",
    "string": "bytes",
}
_LEAST_BYTES = {
    "null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "enum": 1,
    "array": 1, "map": 1,
}  # fmt: skip


class AvroSchemaError(ValueError):
    """A schema that is none, or that cannot be read by. The message goes on after "the schema"."""


@dataclass(frozen=True, slots=True)
class AvroType:
    """What a value is made of.

    Strings are of kind ``bytes``: whether they are UTF-8 is asked later, of whole columns. A union
    of null and one type is that type with ``null_branch`` set. A record that holds itself is
    ``recursive``; the place where it does is of kind ``named``.
    """

    kind: Kind
    name: str = ""  # of a record, enum, fixed or named: its full name
    logical: str = ""
    null_branch: int | None = None  # 0 or 1: which branch of the union is null
    size: int = 0  # of a fixed, in bytes
    precision: int = 0  # of a decimal
    scale: int = 0
    symbols: tuple[str, ...] = ()  # of an enum
    fields: tuple[tuple[str, AvroType], ...] = ()  # of a record: names and types
    items: AvroType | None = None  # of an array or map
    branches: tuple[AvroType, ...] = ()  # of a union
    recursive: bool = False
    least_bytes: int = field(default=0, compare=False)  # that a value takes, or fewer
    width: int = field(default=1, compare=False)  # how many types it consists of


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """A whole schema: the record that each datum is, and all named types."""

    record: AvroType
    named: Mapping[str, AvroType]


def parse_avro_schema(text: str | bytes) -> AvroSchema:
    """Understand a writer's schema.

    Raises:
        AvroSchemaError: it is none, it is nested too deeply, or a datum is no record.
    """
    try:
        said = msgspec.json.decode(text)
        parser = _Parser()
        record = parser.parse(said, "", 0)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise AvroSchemaError(f"is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, AvroSchemaError):
            raise
        raise AvroSchemaError(f"is no Avro schema: {error}") from error
    if record.kind != "record":
        raise AvroSchemaError(f"is of kind {record.kind}: only records can be read")
    return AvroSchema(record, parser.named)


class _Parser:
    def __init__(self) -> None:
        self.named: dict[str, AvroType] = {}
        self._open: list[str] = []
        self._recursive: set[str] = set()

    def parse(self, said: Any, namespace: str, depth: int) -> AvroType:
        if depth > MAX_DEPTH:
            raise AvroSchemaError(f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(said, str):
            return self._by_name(said, namespace)
        if isinstance(said, list):
            return _union([self.parse(branch, namespace, depth + 1) for branch in said])
        kind = said["type"]
        if not isinstance(kind, str):
            return self.parse(kind, namespace, depth + 1)  # {"type": {"type": …}}
        if kind in _PRIMITIVES:
            return _logical(_primitive(_PRIMITIVES[kind]), said, kind)
        if kind in ("array", "map"):
            items = self.parse(said["items" if kind == "array" else "values"], namespace, depth + 1)
            return AvroType(kind, items=items, least_bytes=1, width=_width([items]))
        if kind in ("record", "error", "enum", "fixed"):
            return self._definition(kind, said, namespace, depth)
        return self._by_name(kind, namespace)

    def _definition(self, kind: str, said: dict[str, Any], namespace: str, depth: int) -> AvroType:
        name = _full_name(str(said["name"]), said.get("namespace", namespace))
        if name in self.named or name in self._open:
            raise AvroSchemaError(f"defines {name} twice")
        if kind == "enum":
            symbols = tuple(map(str, said["symbols"]))
            made = AvroType("enum", name, symbols=symbols, least_bytes=1)
        elif kind == "fixed":
            size = said["size"]
            if type(size) is not int or not 0 <= size <= MAX_FIXED_BYTES:
                raise AvroSchemaError(f"gives {name} the size {size}, of at most {MAX_FIXED_BYTES}")
            made = _logical(AvroType("fixed", name, size=size, least_bytes=size), said, kind)
        else:
            made = self._record(name, said, depth)
        self.named[name] = made
        return made

    def _record(self, name: str, said: dict[str, Any], depth: int) -> AvroType:
        self._open.append(name)
        inside = name.rpartition(".")[0]
        fields = tuple(
            (str(f["name"]), self.parse(f["type"], inside, depth + 1)) for f in said["fields"]
        )
        self._open.pop()
        return AvroType(
            "record",
            name,
            fields=fields,
            recursive=name in self._recursive,
            least_bytes=sum(of.least_bytes for _, of in fields),
            width=_width([of for _, of in fields]),
        )

    def _by_name(self, said: str, namespace: str) -> AvroType:
        if said in _PRIMITIVES:
            return _primitive(_PRIMITIVES[said])
        # a name without dots is of the enclosing namespace, or else of none
        for name in dict.fromkeys((_full_name(said, namespace), said)):
            if name in self._open:
                self._recursive.add(name)
                return AvroType("named", name, least_bytes=1)  # a union or array, or it had no end
            if name in self.named:
                return self.named[name]
        raise AvroSchemaError(f"names {said!r}, which it does not define")


def _full_name(name: str, namespace: str | None) -> str:
    return f"{namespace}.{name}" if namespace and "." not in name else name.lstrip(".")


def _width(parts: list[AvroType]) -> int:
    width = 1 + sum(part.width for part in parts)
    if width > MAX_WIDTH:
        raise AvroSchemaError(f"has more than {MAX_WIDTH} fields, those of its records included")
    return width


def _primitive(kind: Kind) -> AvroType:
    return AvroType(kind, least_bytes=_LEAST_BYTES[kind])


def _union(branches: list[AvroType]) -> AvroType:
    if not 0 < len(branches) < 128:
        raise AvroSchemaError(f"has a union of {len(branches)} types")
    kinds = [branch.kind for branch in branches]
    if len(branches) == 2 and kinds.count("null") == 1:
        null = kinds.index("null")
        other = branches[1 - null]
        if other.kind not in ("union", "named") and other.null_branch is None:
            return replace(other, null_branch=null, least_bytes=1)
    if any(b.kind == "union" or b.null_branch is not None for b in branches):
        raise AvroSchemaError("has a union in a union")
    least = 1 + min(branch.least_bytes for branch in branches)
    return AvroType("union", branches=tuple(branches), least_bytes=least, width=_width(branches))


_LOGICAL = {
    "int": {"date", "time-millis"},
    "long": {"time-micros"}
    | {
        f"{zone}timestamp-{unit}"
        for zone in ("", "local-")
        for unit in ("millis", "micros", "nanos")
    },
}


def _logical(made: AvroType, said: dict[str, Any], kind: str) -> AvroType:
    logical = said.get("logicalType")
    if logical in _LOGICAL.get(kind, ()):
        return replace(made, logical=logical)
    if logical == "uuid" and kind == "fixed" and made.size == 16:
        return replace(made, logical=logical)
    if logical == "decimal" and kind in ("bytes", "fixed"):
        precision, scale = said.get("precision", 0), said.get("scale", 0)
        whole = isinstance(precision, int) and isinstance(scale, int)
        if whole and 0 < precision <= 76 and 0 <= scale <= precision:
            return replace(made, logical=logical, precision=precision, scale=scale)
    return made
