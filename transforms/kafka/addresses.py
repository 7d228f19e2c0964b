"""Where a topic is, ``kafka://HOST:PORT[,HOST:PORT…]/TOPIC?…``, and a schema registry."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from .names import CONFIG_VARIABLE, CREDENTIALS_VARIABLE

_SERVER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")


class Address(NamedTuple):
    """A topic, its cluster (``HOST:PORT`` of one or several brokers, with commas between them), and
    the query of its URI."""

    servers: str
    topic: str
    query: str

    def place(self, scheme: str) -> str:
        """The URI without its query."""
        return f"{scheme}://{self.servers}/{self.topic}"


def parse_address(scheme: str, rest: str, longest: int, mistake: type[ValueError]) -> Address:
    """The parts of ``scheme:rest``.

    Args:
        longest: how many characters the topic's name may have.
        mistake: what is raised.

    Raises:
        ValueError: the ``mistake``: no broker or no topic is named, or there are credentials in it.
    """
    said, _, query = rest.partition("?")
    servers, slash, topic = said.removeprefix("//").rpartition("/")
    if "@" in servers:
        raise mistake(
            f"{scheme}: the URI has credentials in it; put sasl.username and sasl.password into a "
            f"file, and its path into {CONFIG_VARIABLE} or config=FILE"
        )
    if not said.startswith("//") or not slash or not servers or not topic:
        raise mistake(f"{scheme}: names no topic; write {scheme}://HOST:PORT/TOPIC")
    if not is_topic(topic, longest):
        raise mistake(
            f"{scheme}: {topic!r} is no topic's name: up to {longest} letters, digits, '.', '_' "
            "and '-'"
        )
    return Address(",".join(_server(s, mistake) for s in servers.split(",")), topic, query)


def is_topic(name: str, longest: int) -> bool:
    """Whether a topic can have the name."""
    return bool(_TOPIC.fullmatch(name)) and len(name) <= longest and name not in (".", "..")


def checked_url(url: str, mistake: type[ValueError]) -> str:
    """The schema registry's URL.

    Raises:
        ValueError: the ``mistake``: it is none, or has a password in it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None:
        raise mistake(
            "the schema registry's URL has credentials in it; put USER:PASSWORD into the "
            f"environment variable {CREDENTIALS_VARIABLE}"
        )
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        # Not repeated: what has no scheme may have a password all the same.
        raise mistake("what is given is no URL of a schema registry: say registry=https://…")
    if not url:
        raise mistake("format=avro needs the schema registry: say registry=https://…")
    return url


def _server(said: str, mistake: type[ValueError]) -> str:
    found = _SERVER.fullmatch(said)
    if not found:
        raise mistake(f"kafka: {said!r} is no broker; write HOST:PORT")
    return f"{found[1]}{found[2] or ':9092'}"
