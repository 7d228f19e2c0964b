"""What ``millstream`` exits with. Stable: schedulers decide by them."""

OK = 0
"""Committed, balanced, all input read. Dead letters alone do not change this."""
FAILED = 1
"""The run failed (a service, a disk, the runner): run it again. Nothing of it is visible, unless it
had begun to commit, and the message says so."""
USAGE = 2
"""A mistake in a flag, job file or contract, or input that is not there: nothing was run."""
UNBALANCED = 3
"""Records are unaccounted for: nothing was committed."""
INCOMPLETE = 4
"""Committed and balanced, but some input could not be read to its end."""
REFUSED = 5
"""Another run holds the lock, or has committed this input already: nothing was run."""
GATED = 6
"""A quality gate, the failure budget or ``drift: freeze`` kept it back: nothing was committed, or
what was not as the contract says is in quarantine, and the message says so."""

HELP = (
    "exit codes: 0 committed; 1 failed, run it again; 2 a mistake in flags, job or contract; "
    "3 unbalanced, nothing committed; 4 committed, but some input could not be read to its end; "
    "5 refused: another run holds the lock or has committed this input; "
    "6 a quality gate, the budget or drift: freeze kept it back"
)
