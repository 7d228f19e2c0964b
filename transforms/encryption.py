"""Payloads of dead letters that only a key opens.

What is encrypted is what may be personal: the payload, and those attributes that a message carried.
The rest of a letter, above all why it is one, stays as it is, and so does its id, which is that of
the plain payload. An encrypted letter has

- ``payloadBytes``: a token of Fernet (https://github.com/fernet/spec), the payload inside; where a
  letter held no bytes but a piece of text to look at, ``payloadString`` is the token of that;
- attributes ``payload.encryption`` = ``fernet``, and ``payload.key``, which tells keys apart;
- an attribute ``payload.attributes``, if there were any: a token, inside a JSON list of names and
  values.

Keys are kept in an environment variable, with commas between several: the first encrypts, each of
them decrypts. Pipelines, plans and dead letters hold the variable's name at most.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from ..schemas.dead_letters import OURS, SCHEMA

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

ENCRYPTION, KEY, SEALED = "payload.encryption", "payload.key", "payload.attributes"
FERNET = "fernet"
MAKE_KEY = (
    "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)
"""The command that makes a key."""

Pairs = Sequence[Mapping[str, Any]]
"""Attributes of a dead letter: ``key`` and ``value`` of each."""


class EncryptionError(ValueError):
    """Keys, or a letter, that cannot be used. The message names the variable, and never a key."""


@dataclass(frozen=True)
class Keys:
    """The keys of an environment variable, by what letters call them; the first one encrypts."""

    variable: str
    by_id: Mapping[str, Fernet]

    def encrypt(self, data: bytes) -> bytes:
        """A token."""
        return next(iter(self.by_id.values())).encrypt(data)

    @property
    def first(self) -> str:
        """What letters call the key that encrypts."""
        return next(iter(self.by_id))

    def why_not(self, token: bytes, attributes: Pairs) -> str:
        """Why a letter cannot be decrypted; empty if it can. It is not decrypted for that."""
        from cryptography.fernet import InvalidToken

        try:
            self._key(attributes).extract_timestamp(token)  # which looks at the signature
        except InvalidToken:
            return f"what they hold is not what the key {key_id(attributes)} has encrypted"
        except EncryptionError as error:
            return str(error)
        return ""

    def decrypt(self, token: bytes, attributes: Pairs) -> bytes:
        """What is in a token of a letter with these attributes.

        Raises:
            EncryptionError: its key is not among these, or it has been changed.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._key(attributes).decrypt(token)
        except InvalidToken:
            raise EncryptionError(
                f"{self.variable}: a dead letter is not what the key {key_id(attributes)} has "
                "encrypted: it has been changed since"
            ) from None

    def _key(self, attributes: Pairs) -> Fernet:
        wanted = key_id(attributes)
        if wanted not in self.by_id:
            raise EncryptionError(f"their key {wanted} is not among those of {self.variable}")
        return self.by_id[wanted]


def keys_of(variable: str) -> Keys:
    """The keys that an environment variable holds.

    Raises:
        EncryptionError: it is not set, holds what is no key, or the library is missing.
    """
    text = os.environ.get(variable, "")
    if not text.strip():
        raise EncryptionError(
            f"{variable}: the environment variable is not set; it holds the keys that dead letters "
            f"are encrypted with, each made with: {MAKE_KEY}"
        )
    return _keys(variable, text)


@lru_cache(maxsize=8)
def _keys(variable: str, text: str) -> Keys:
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise EncryptionError(
            f"{variable}: needs {error.name}; install it with: pip install 'millstream[encrypt]'"
        ) from None
    found: dict[str, Fernet] = {}
    keys = [key.strip() for key in text.split(",")]
    for number, key in enumerate(keys, 1):
        try:
            fernet = Fernet(key)
        except ValueError:
            which = "the key" if len(keys) == 1 else f"key {number} of {len(keys)}"
            raise EncryptionError(
                f"{variable}: {which} is none of Fernet's, which are 32 bytes in URL-safe base64; "
                f"make one with: {MAKE_KEY}"
            ) from None
        # Of the key itself: what is said around it, such as quotes, decoding passes over.
        raw = base64.urlsafe_b64decode(key)
        digest = hashlib.blake2b(raw, digest_size=4, person=b"millstream")
        found.setdefault(digest.hexdigest(), fernet)
    return Keys(variable, found)


def is_encrypted(attributes: Pairs | None) -> bool:
    """Whether a letter with these attributes is encrypted."""
    return any(pair["key"] == ENCRYPTION for pair in attributes or ())


def key_id(attributes: Pairs) -> str:
    """What an encrypted letter calls its key."""
    return next((str(pair["value"]) for pair in attributes if pair["key"] == KEY), "?")


def encrypted(letters: pa.RecordBatch, keys: Keys) -> pa.RecordBatch:
    """Dead letters with payloads and personal attributes that only a key opens."""
    payloads, texts, attributes = [], [], []
    for payload, text, pairs in _rows(letters):
        if not is_encrypted(pairs):
            sealed = None if text is None or payload is not None else keys.encrypt(text.encode())
            text = sealed and sealed.decode()
            payload = None if payload is None else keys.encrypt(payload)
            pairs = _sealed(pairs or (), keys)
        payloads.append(payload)
        texts.append(text)
        attributes.append(pairs)
    return _with(letters, payloads, texts, attributes)


def decrypted(letters: pa.RecordBatch, keys: Keys) -> pa.RecordBatch:
    """Dead letters as they were before they were encrypted, of the columns that there are.

    ``payloadString`` stays null: it was the payload's text.

    Raises:
        EncryptionError: of one of them the key is missing, or it has been changed.
    """
    payloads, texts, attributes = [], [], []
    for payload, text, pairs in _rows(letters):
        if is_encrypted(pairs):
            payload = None if payload is None else keys.decrypt(payload, pairs)
            text = None if text is None else keys.decrypt(text.encode(), pairs).decode()
            pairs = opened(pairs, keys)
        payloads.append(payload)
        texts.append(text)
        attributes.append(pairs)
    return _with(letters, payloads, texts, attributes)


def decrypted_payloads(payloads: pa.Array, attributes: pa.Array, keys: Keys) -> pa.Array:
    """The payloads of letters with these attributes as they were.

    Raises:
        EncryptionError: of one of them the key is missing, or it has been changed.
    """
    found = [
        keys.decrypt(payload, pairs) if payload is not None and is_encrypted(pairs) else payload
        for payload, pairs in zip(payloads.to_pylist(), attributes.to_pylist(), strict=True)
    ]
    return pa.array(found, pa.binary())


def opened(attributes: Pairs, keys: Keys) -> list[Mapping[str, Any]] | None:
    """The attributes that a letter had before it was encrypted.

    Raises:
        EncryptionError: the key is missing, or they have been changed.
    """
    plain = [pair for pair in attributes if pair["key"] not in (ENCRYPTION, KEY, SEALED)]
    for pair in attributes:
        if pair["key"] == SEALED:
            inside = msgspec.json.decode(keys.decrypt(pair["value"].encode(), attributes))
            plain += [{"key": key, "value": value} for key, value in inside]
    return plain or None


def _sealed(attributes: Pairs, keys: Keys) -> list[Mapping[str, Any]]:
    plain = [pair for pair in attributes if pair["key"] in OURS]
    private = [(pair["key"], pair["value"]) for pair in attributes if pair["key"] not in OURS]
    plain += [{"key": ENCRYPTION, "value": FERNET}, {"key": KEY, "value": keys.first}]
    if private:
        token = keys.encrypt(msgspec.json.encode(private)).decode()
        plain.append({"key": SEALED, "value": token})
    return plain


def _rows(letters: pa.RecordBatch) -> Iterable[tuple[Any, Any, Any]]:
    columns = (
        letters.column(name).to_pylist() if name in letters.schema.names else [None] * len(letters)
        for name in ("payloadBytes", "payloadString", "attributes")
    )
    return zip(*columns, strict=True)


def _with(letters: pa.RecordBatch, *columns: Sequence[Any]) -> pa.RecordBatch:
    names = ("payloadBytes", "payloadString", "attributes")
    for name, values in zip(names, columns, strict=True):
        place = letters.schema.get_field_index(name)
        if place >= 0:
            field = SCHEMA.field(name)
            letters = letters.set_column(place, field, pa.array(values, field.type))
    return letters
