"""millstream's transforms for Beam YAML: rows with a schema in, and rows out.

Each takes what YAML can say: a contract is a path or the document itself, a key a list of names.
``templates/beam_yaml/millstream.yaml`` is the provider file that lists them. Type names are plain:
``Parse``, ``Validate``, ``Step``, ``Deduplicate``, ``Aggregate``, ``WriteRecords`` and
``ReadFromJsonLines``. Needs the packages that Beam's extra ``yaml`` names.

``error_handling: {output: NAME}`` gives dead letters by :mod:`millstream.schemas.dead_letters` as
rows of that output; without it a record that is refused fails the pipeline.
"""

from .errors import RefusedRecords
from .groups import Aggregate, Deduplicate
from .options import OptionError
from .reading import Parse, ReadFromJsonLines
from .records import Step, Validate
from .writing import WriteRecords

__all__ = [
    "Aggregate",
    "Deduplicate",
    "OptionError",
    "Parse",
    "ReadFromJsonLines",
    "RefusedRecords",
    "Step",
    "Validate",
    "WriteRecords",
]
