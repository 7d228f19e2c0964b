"""Old against new, of one part and all aggregates: what a process does with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..write.attempts import Attempts
from .compare import Compared, compare, standing
from .parts import Part
from .publish import Target
from .results import Results


@dataclass(frozen=True)
class Comparing:
    """Compares parts. Picklable."""

    results: Results
    targets: tuple[Target, ...]
    patience: float

    def __call__(self, part: Part) -> dict[str, Compared]:
        """By aggregate, how its windows that begin in a part would change."""
        attempts = Attempts(self.patience)
        return {
            target.spec.name: attempts.call(
                target.output.destination.service,
                lambda target=target: self._compared(part, target),
            )
            for target in self.targets
        }

    def _compared(self, part: Part, target: Target) -> Compared:
        old = standing(target.output, target.spec, part)
        return compare(old, self.results.of_part(part, target.spec).visible, target.spec)
