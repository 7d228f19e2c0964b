"""Coders of a pipeline, in words."""

from __future__ import annotations

from typing import Any

from apache_beam.coders import coders
from apache_beam.portability import python_urns
from google.protobuf.wrappers_pb2 import BytesValue


def coder_in_words(parts: Any, key: str) -> str:
    """A coder and what it is made of, as ``kv(varint, RecordBatchCoder)``.

    Args:
        parts: the components of a pipeline.
    """
    coder = parts.coders[key]
    inner = ", ".join(coder_in_words(parts, part) for part in coder.component_coder_ids)
    name = coder.spec.urn
    if name == python_urns.PICKLED_CODER:
        data = BytesValue.FromString(coder.spec.payload).value
        name = type(coders.deserialize_coder(data)).__name__
    name = name.removeprefix("beam:coder:").partition(":")[0]
    return f"{name}({inner})" if inner else name
