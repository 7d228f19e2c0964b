"""What a Flex Template's launcher runs: a template's pipeline, with the launch's parameters.

Google's launcher calls this file with ``--key=value`` for each parameter, and with flags of Beam
(``--runner``, ``--project``, ``--job_name``, ``--template_location``, …). It takes the pipeline
that is left at ``--template_location`` and starts the job by itself: nothing here waits for it.
https://cloud.google.com/dataflow/docs/guides/templates/using-flex-templates
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import yaml
from millstream.pipelines import cli, exit_codes
from millstream.pipelines.flex_templates import TEMPLATES
from millstream.pipelines.logs import ERROR, say

NAME = "MILLSTREAM_TEMPLATE"
"""The environment variable, set in the image, that names the template."""
_INPUT = "--input="


def main(argv: list[str]) -> int:
    """Launch; gives the exit code of ``millstream ingest``."""
    name = os.environ.get(NAME, "")
    if name not in TEMPLATES:
        say(f"{NAME}: expected {' or '.join(TEMPLATES)}, got {name!r}", ERROR)
        return exit_codes.USAGE
    parameters = [part for text in argv for part in _parts(text)]
    return cli.main(["ingest", "--no_wait", *TEMPLATES[name].flags, *parameters])


def _parts(text: str) -> list[str]:
    """A parameter as the command line has it: of ``input`` there may be a list, as in YAML."""
    if text.startswith(f"{_INPUT}["):
        with suppress(yaml.YAMLError):  # then it is no list, and no file either
            inputs = yaml.safe_load(text.removeprefix(_INPUT))
            return [_INPUT.removesuffix("="), *map(str, inputs)]
    return [text]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
