# pyright: reportMissingImports=false
"""The clicks job in Beam YAML (``beam_yaml.yaml``), run as ``python -m apache_beam.yaml.main``.

Its text source decodes as UTF-8 and fails the whole pipeline at a line that is not. Types are
checked by ``output_type``, rules by a JSON schema. JSON is Python's: NaN passes the decoder and the
JSON schema. A null amount cannot be told to the types, so it is made 0 first.
"""

import argparse
import json
from pathlib import Path

from apache_beam.yaml import main as beam_yaml

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    beam_yaml.run(
        [
            f"--yaml_pipeline_file={Path(__file__).with_name('beam_yaml.yaml')}",
            f"--jinja_variables={json.dumps({'input': str(args.input), 'out': str(args.out)})}",
            f"--runner={RUNNER}",
        ]
    )
    for part in (args.out / "dead_letters").glob("*"):
        part.rename(part.with_name(f"{part.name}.jsonl"))  # its JSON sink has no suffix option


if __name__ == "__main__":
    main()
