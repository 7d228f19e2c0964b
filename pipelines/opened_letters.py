"""The letters that flags name, with what is known of them, and what of them people get to see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from . import job_secrets, logs
from .arguments import job_flags
from .encryption import letter_keys, mask_key
from .job import Job, JobError, Places, load_job, read_text
from .job_parts import job_contract
from .logs import WARNING, say
from .names import DEAD_LETTERS, LATE
from .outputs import required_state_folder

if TYPE_CHECKING:
    import argparse

    from ..schemas.masking import Masking
    from ..transforms.letters import Letters, Marks
    from ..transforms.letters.shown import Showing
    from ..transforms.runs import RunStore

_OF_LETTERS = {"contract", "schema", "mask_key", "encrypt_dead_letters"}
"""Keys that say enough to look at letters which are no job's."""


@dataclass(frozen=True)
class Opened:
    """Letters, and what became of them, as far as a job is named that knows it.

    ``says`` is the job, or, of letters that are no job's, what flags say in the place of one.
    """

    letters: Letters
    says: Job
    places: Places
    job: Job | None = None
    marks: Marks | None = None
    store: RunStore | None = None

    @property
    def wait(self) -> float:
        """Seconds to wait for the job's lock."""
        return self.says.wait

    def showing(self, *, reveal: bool) -> Showing:
        """What of the letters is shown; what is not, and why, is said."""
        from ..transforms.letters.shown import Showing

        keys = None
        try:
            keys = letter_keys(self.says.encrypt_dead_letters, self.places)
        except JobError as error:
            say(f"what is encrypted stays so: {error}", WARNING)
        if reveal:
            say("shown as it is: this may hold classified fields", WARNING)
            return Showing(None, keys, reveal=True)
        try:
            return Showing(self._masking(), keys)
        except JobError as error:
            say(f"nobody knows which fields are classified, and none is shown: {error}", WARNING)
            return Showing(None, keys)

    @cached_property
    def classifies_nothing(self) -> bool:
        """Whether the contract's text alone says that it classifies no field: it takes a third of
        a second to read it as a contract.
        """
        try:
            text = read_text(self.says.contract, "the contract") if self.says.contract else ""
        except JobError:
            return False
        # With escapes, YAML can say a word without its letters.
        return "DataContract" in text and "classification" not in text and "\\" not in text

    def _masking(self) -> Masking:
        from ..schemas.contract import Contract
        from ..schemas.masking import Masking

        if not self.says.contract:
            raise JobError("name their contract with --contract FILE, or say --reveal")
        if self.classifies_nothing:
            return Masking(Contract("", "", "", ()))
        return Masking(job_contract(self.says), mask_key(self.says.mask_key, self.places))


def opened(arguments: argparse.Namespace) -> Opened:
    """The letters that the flags name.

    Raises:
        JobError: the job cannot be used, or has no such output.
        DestinationError: they cannot be read from there.
    """
    from ..transforms.letters import Marks, open_letters
    from ..transforms.runs import RunStore

    flags = job_flags(arguments)
    if arguments.letters and not arguments.job and flags.keys() <= _OF_LETTERS:
        said = {"name": "", "contract": "", "input": [], "ledger": "", **flags}
        job, places = Job(**said, dead_letters=arguments.letters), Places(None, flags)
        return Opened(open_letters(arguments.letters), job, places)
    job, places = load_job(arguments.job, flags)
    logs.use(job.log_format)
    job_secrets.fetch(job, places)
    store = RunStore(required_state_folder(job, places))
    name, uri = (LATE, job.late) if arguments.late else (DEAD_LETTERS, job.dead_letters)
    if not uri:
        raise places.error((name,), "the job has no such output: nothing was written there")
    if arguments.letters:
        letters = open_letters(arguments.letters, state=store.home)
    else:
        letters = open_letters(uri, name, store.home)
    return Opened(letters, job, places, job, Marks(store.home), store)
