"""Whole jobs are killed (SIGKILL) while they write to a service; the same command mends them.

A few moments for each destination; ``tests/torture.py`` tries as many as one likes.
"""

from __future__ import annotations

import random

import pytest

from tests.services.destinations import DESTINATIONS, parameters
from tests.services.serving import NoServer
from tests.torture import torture

KILLS = 4
SECONDS = 20
"""After these no further job is begun; one that has begun is killed, run again and looked at."""


@pytest.mark.parametrize("scheme", parameters("slow"))
def test_jobs_that_are_killed_commit_once(scheme: str, skip_visibly):
    if reason := DESTINATIONS[scheme].why_not():
        skip_visibly(f"{scheme}: {reason}")
    seed = random.randrange(1 << 32)
    print(f"python -m tests.torture {scheme} --kills {KILLS} --seed {seed}")
    try:
        assert torture(scheme, KILLS, seed, seconds=SECONDS) == []
    except NoServer as error:
        skip_visibly(f"{scheme}: {error}")
