"""The provider file for Beam YAML, as it is installed; :data:`PROVIDERS` is its path.

``python -m millstream.templates.beam_yaml`` prints it, for ``include`` in a pipeline's providers.
"""

from pathlib import Path

PROVIDERS = str(Path(__file__).with_name("millstream.yaml"))
