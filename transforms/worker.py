"""What a worker process does before all else, where Beam starts it: fetch the job's secrets.

Beam imports this module in each worker that is told of it by ``--beam_plugin``, once it has read
the pipeline's options, and before any of the pipeline's code. So do Dataflow, and pools of workers
that the image starts (``boot --worker_pool``); a pool that is started by hand from
``worker_pool_main`` does not, and has to have the variables itself. Importing it anywhere else does
nothing.
"""

from __future__ import annotations

import atexit

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider

from .secrets import FLAG, decode, forget, install


class SecretOptions(PipelineOptions):
    """The option in which references to secrets reach workers."""

    @classmethod
    def _add_argparse_args(cls, parser) -> None:  # pyright: ignore[reportMissingParameterType]
        parser.add_argument(FLAG, default="", help="where secrets are kept, by variable, as JSON")


def _begin() -> None:
    given = RuntimeValueProvider.runtime_options or {}
    if references := given.get(FLAG.removeprefix("--")):
        atexit.register(forget)
        install(decode(references))


_begin()
