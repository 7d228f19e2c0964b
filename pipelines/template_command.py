"""``millstream template``: Dataflow Flex Templates, listed, shown, and built into spec files."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from . import exit_codes
from .job import JobError
from .logs import ERROR, say

_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?"
_PART = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE = re.compile(rf"({_HOST}/)?{_PART}(/{_PART})*(:{_TAG})?(@sha256:[0-9a-f]{{64}})?")
"""https://pkg.go.dev/github.com/distribution/reference"""
_EACH = "{template}"


def add_parser(subparsers: Any) -> None:
    """Add the command ``template`` to the subparsers of ``millstream``."""
    template = subparsers.add_parser("template", help="Dataflow Flex Templates of the pipelines")
    commands = template.add_subparsers(dest="template_command", metavar="COMMAND", required=True)
    commands.add_parser(
        "list", help="which there are", description="List the templates, one a line."
    )
    show = commands.add_parser(
        "show",
        help="what a template asks for",
        description="Print the metadata of a template as JSON, as the spec file holds it.",
    )
    build = commands.add_parser(
        "build",
        help="write spec files for an image",
        description="Write the spec files that gcloud dataflow flex-template run is given, one a "
        "template, for an image that has been built and pushed: see templates/image/Dockerfile.",
        epilog="exit codes: 0 written; 1 a file could not be written; 2 a mistake in flags",
    )
    build.add_argument(
        "--image",
        metavar="IMAGE",
        required=True,
        type=_image,
        help="the image that launches, and on which workers run, best by its digest: "
        "europe-docker.pkg.dev/PROJECT/REPOSITORY/millstream@sha256:…; it is built for one "
        f"template: {_EACH} stands for its name",
    )
    build.add_argument(
        "--output", metavar="DIR", required=True, help="where to: a folder, or gs://BUCKET/PATH"
    )
    show.add_argument("name", metavar="NAME", help="the template's name")
    build.add_argument(
        "name", metavar="NAME", nargs="*", help=f"templates; with {_EACH} all, if none is named"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``template``; returns its exit code.

    Raises:
        JobError: there is no such template.
    """
    from ..transforms import storage
    from ..transforms.storage import StorageError
    from .flex_templates import TEMPLATES, metadata, spec

    if arguments.template_command == "list":
        for found in TEMPLATES.values():
            kind = "streaming" if found.streaming else "batch"
            print(f"{found.name:<10} {kind:<10} {found.title}")
        return exit_codes.OK
    if arguments.template_command == "show":
        print(json.dumps(metadata(_named(arguments.name)), indent=2))
        return exit_codes.OK
    names = list(dict.fromkeys(arguments.name or TEMPLATES))
    if len(names) > 1 and _EACH not in arguments.image:
        said = f"an image launches one template: name it ({' or '.join(names)}), or write {_EACH} "
        raise JobError(f"--image: {said}where the images' names differ")
    for name in names:
        template = _named(name)
        image = arguments.image.replace(_EACH, name)
        data = json.dumps(spec(template, image), indent=2).encode()
        path = storage.join(storage.absolute(arguments.output), f"{name}.json")
        try:
            storage.write_replace(path, data)
        except StorageError as error:
            say(str(error), ERROR)
            return exit_codes.FAILED
        print(path)
    return exit_codes.OK


def _named(name: str) -> Any:
    from ..schemas.problems import did_you_mean, list_names
    from .flex_templates import TEMPLATES

    if name not in TEMPLATES:
        hint = did_you_mean(name, TEMPLATES) or f"; there are {list_names(tuple(TEMPLATES))}"
        raise JobError(f"no template {name!r}{hint}")
    return TEMPLATES[name]


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text.replace(_EACH, "x")):
        raise argparse.ArgumentTypeError(f"not the name of an image: {text!r}")
    return text
