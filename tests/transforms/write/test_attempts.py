"""What is worth another attempt, who is left alone, and who waits for whom."""

import threading

import pytest
import tenacity
from millstream.transforms.write import attempts
from millstream.transforms.write.attempts import FAILURES, Attempts
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)


class Service:
    """Fails with the errors it was given, one a call, and then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def down(count=1):
    return [Unavailable("db does not answer") for _ in range(count)]


def test_what_may_help_is_done_again():
    service = Service(*down(3))
    assert Attempts(60).call("db", service) == "answer"
    assert service.calls == 4


@pytest.mark.parametrize("error", [DestinationError("no"), CommitConflict("no"), KeyError("slip")])
def test_what_cannot_help_is_not(error):
    service = Service(error)
    with pytest.raises(type(error)):
        Attempts(60).call("db", service)
    assert service.calls == 1


def test_patience_ends_with_what_the_service_said():
    service = Service(*down(10))
    with pytest.raises(Unavailable, match="db does not answer"):
        Attempts(0).call("db", service)
    assert service.calls == 1


def test_whoever_waits_is_told_why(caplog):
    caplog.set_level("WARNING", "millstream")
    Attempts(60).call("db", Service(*down(1)))
    assert "db does not answer; asked again in" in caplog.text


def test_a_service_that_fails_in_a_row_is_left_alone(monkeypatch):
    monkeypatch.setattr(attempts, "PAUSE_SECONDS", 3600)
    service = Service(*down(1000))
    ours = Attempts(0.3)  # many attempts, as nobody sleeps between them
    with pytest.raises(Unavailable, match="db does not answer"):
        ours.call("db", service)
    assert service.calls == FAILURES
    with pytest.raises(Unavailable, match="db has failed 5 times in a row, and is left alone"):
        ours.call("db", service)
    assert service.calls == FAILURES, "nobody asks it any more"
    assert ours.call("another", Service()) == "answer"


def test_a_service_that_says_no_is_not_left_alone():
    ours = Attempts(0)
    for _ in range(FAILURES + 1):
        with pytest.raises(DestinationError):
            ours.call("db", Service(DestinationError("no")))
    assert ours.call("db", Service()) == "answer"


def test_a_slow_service_holds_up_nobody_else():
    fast_is_done = threading.Event()
    done = []

    def work(task):
        if task == "slow/a":
            assert fast_is_done.wait(30), "the slow service would never have ended"
        done.append(task)
        if task == "fast/b":
            fast_is_done.set()

    tasks = ["slow/a", "fast/a", "slow/b", "fast/b"]
    Attempts(0).call_all(tasks, lambda task: task.split("/")[0], work)
    assert done == ["fast/a", "fast/b", "slow/a", "slow/b"]


def test_who_fails_ends_those_of_its_service_alone():
    done = []

    def work(task):
        if task == "a/1":
            raise DestinationError("a says no")
        done.append(task)

    with pytest.raises(DestinationError, match="a says no"):
        Attempts(0).call_all(["a/1", "a/2", "b/1"], lambda task: task[0], work)
    assert done == ["b/1"]


def test_all_that_failed_is_said_what_needs_mending_first():
    errors = {"a": Unavailable("a is away"), "b": DestinationError("b says no")}

    def work(task):
        raise errors[task]

    with pytest.raises(DestinationError, match=r"^b says no\na is away$"):
        Attempts(0).call_all(["a", "b"], str, work)


def test_a_slip_of_ours_is_not_hidden():
    errors = {"a": DestinationError("a says no"), "b": KeyError("slip")}

    def work(task):
        raise errors[task]

    with pytest.raises(KeyError, match="slip"):
        Attempts(0).call_all(["a", "b"], str, work)
