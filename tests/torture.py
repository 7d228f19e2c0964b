"""Kill whole jobs with -9 at random moments, start them again, and see that nothing was done twice.

``python -m tests.torture duckdb postgresql --kills 20 --seed 7``: the job of the example, with
records, an aggregate and its states, dead letters and the ledger all going to one destination. A
line for each kill, a summary for each destination, and an exit code of 1 if anything differs from
what an undisturbed run leaves. Without names, every destination that can be had here.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from millstream.pipelines import exit_codes

from tests.pipelines.sink_jobs import Day, Expected, SinkJob, wait_for
from tests.services.destinations import DESTINATIONS
from tests.services.serving import NoServer


class Times(NamedTuple):
    """When things happened in a run that nobody killed, in seconds from its start."""

    planned: float
    prepared: float
    recorded: float


def torture(
    scheme: str,
    kills: int,
    seed: int,
    *,
    seconds: float = float("inf"),
    say: Callable[[str], object] = print,
) -> list[str]:
    """Kill jobs of one destination; gives what differs in the end.

    Args:
        kills: how many; a job is killed one to three times before it may end.
        seconds: no new job is begun after them.

    Raises:
        NoServer: the service does not start.
    """
    known, chance, begun = DESTINATIONS[scheme], random.Random(seed), time.monotonic()
    with known.running() as peer, TemporaryDirectory(prefix="millstream-torture-") as folder:
        day = Day.make(Path(folder) / "day", refused="refuse" not in known.lacks)
        wanted = day.expected()

        def job(name: str) -> SinkJob:
            return SinkJob(scheme, known, peer, day, Path(folder) / name).write()

        wholes = [job("whole"), job("again")]
        # A job that takes longer than others would have them end before they are killed.
        times = min(map(undisturbed, wholes), key=lambda times: times.recorded)
        found = [f"undisturbed: {said}" for whole in wholes for said in whole.differences(wanted)]
        say(
            f"{scheme}: undisturbed, it commits from {times.prepared:.2f} to {times.recorded:.2f} s"
        )
        done = 0
        for number in itertools.count():
            if done >= kills or (done and time.monotonic() - begun > seconds):
                break
            killed = job(f"killed{number}")
            for _ in range(min(chance.choice([1, 1, 2, 3]), kills - done)):
                when = kill(killed, times, chance)
                if not when:
                    break  # it was quicker than we
                done += 1
                say(f"{scheme} kill {done}/{kills}: {when}")
            found += [f"after kill {done}: {said}" for said in mended(killed, wanted)]
    for said in found:
        say(f"{scheme}: {said}")
    return found


def undisturbed(job: SinkJob) -> Times:
    """Run a job that nobody kills."""
    started = time.monotonic()
    times = []
    with job.start() as process:
        for name in ("plan", "prepared", "record"):
            wait_for(lambda name=name: job.has(name), process)
            times.append(time.monotonic() - started)
        wait_for(lambda: False, process)
    said = (job.path / "said.txt").read_text("utf-8")
    assert process.returncode == exit_codes.OK, said
    return Times(*times)


def kill(job: SinkJob, times: Times, chance: random.Random) -> str:
    """Start a job, and kill it: as often as not while it commits. Says when that was; nothing, if
    the job ended before."""
    resumes = job.has("prepared")
    while_it_commits = chance.random() < 0.6
    begins = times.prepared if while_it_commits else times.planned
    after = chance.uniform(0, times.recorded - begins)
    started = time.monotonic()
    with job.start() as process:
        # A job that resumes has the file from the start: it commits as soon as it has the lock.
        if not while_it_commits or resumes:
            wait_for(lambda: time.monotonic() - started >= times.planned, process)
        else:
            wait_for(lambda: job.has("prepared"), process)
        until = time.monotonic() + after
        wait_for(lambda: time.monotonic() >= until, process)
        lived = process.poll() is None
        process.kill()
    if not lived:
        return ""
    names = {"record": "recorded", "prepared": "committing", "plan": "running"}
    phase = next((said for name, said in names.items() if job.has(name)), "starting")
    return f"after {time.monotonic() - started:.2f} s, {phase}{' again' if resumes else ''}"


def mended(job: SinkJob, expected: Expected) -> list[str]:
    """Run a job to its end, and once more for nothing; gives what is wrong then."""
    code, said = job.finish()
    if code != exit_codes.OK:
        return [f"run again, the job ends with {code}: {said}"]
    found = list(job.differences(expected))
    code, said = job.finish()
    if code != exit_codes.OK or "nothing to do" not in said:
        found.append(f"run once more, the job ends with {code}: {said}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="tests.torture", description=__doc__)
    parser.add_argument("destinations", nargs="*", choices=[*DESTINATIONS, []], metavar="SCHEME")
    parser.add_argument("--kills", type=int, default=20, help="for each destination")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args(arguments)
    failed = []
    for scheme in given.destinations or DESTINATIONS:
        if reason := DESTINATIONS[scheme].why_not():
            print(f"{scheme}: skipped: {reason}", flush=True)
            failed += [scheme] if given.destinations else []
            continue
        print(f"{scheme}: seed {given.seed}", flush=True)
        try:
            found = torture(
                scheme, given.kills, given.seed, say=lambda said: print(said, flush=True)
            )
        except NoServer as error:
            found = [str(error)]
        failed += [scheme] if found else []
        verdict = f"{len(found)} differences: {found}" if found else "as if undisturbed"
        print(f"{scheme}: {given.kills} kills: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
