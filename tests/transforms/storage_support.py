"""Storage that crashes at every operation in turn, and storage that lets threads take turns."""

import itertools
import threading
from contextlib import contextmanager

import pytest
from millstream.transforms import storage

OPERATIONS = (
    "write_once", "write_replace", "move", "delete", "delete_folder", "delete_empty_folder",
    "list_files", "read_bytes", "open_write", "exists",
)  # fmt: skip


class Crash(BaseException):
    """The process dies here: no ``except Exception`` sees it."""


@contextmanager
def wrapped_storage(wrap):
    """Every operation of the façade goes through ``wrap(name, function)(*args)``."""
    patch = pytest.MonkeyPatch()
    for name in OPERATIONS:
        patch.setattr(storage, name, wrap(name, getattr(storage, name)))
    try:
        yield
    finally:
        patch.undo()


def crash_points(action, prepare):
    """Run ``action(prepare())`` once for every storage operation in it, dying there.

    Dies before the operation and, next time, after it. Yields what ``prepare`` gave, in the state
    in which the crash left it; ends when ``action`` gets through.
    """
    for point in itertools.count():
        after = bool(point % 2)
        left = point // 2
        state = prepare()
        died = False

        def wrap(name, function, after=after):
            def call(*args, **kwargs):
                nonlocal left, died
                if died:
                    raise Crash
                left -= 1
                if left < 0 and not after:
                    died = True
                    raise Crash(name)
                result = function(*args, **kwargs)
                if left < 0:
                    died = True
                    if hasattr(result, "close"):
                        result.close()
                    raise Crash(name)
                return result

            return call

        try:
            with wrapped_storage(wrap):
                action(state)
        except Crash:
            yield state
            continue
        assert point > 10, "nothing was interrupted"
        return


def interleave(schedule, *actions):
    """Run actions in threads of which one at a time takes a step, up to a storage operation.

    ``schedule`` is an iterator of integers that picks who is next. Gives what each action returned
    or raised.
    """
    condition = threading.Condition()
    waiting: set[int] = set()
    finished: set[int] = set()
    turn: list[int] = []
    results: list[object] = [None] * len(actions)
    local = threading.local()

    def pick():
        if not turn and len(waiting) + len(finished) == len(actions) and waiting:
            order = sorted(waiting)
            turn.append(order[next(schedule, 0) % len(order)])
            condition.notify_all()

    def pause():
        me = local.me
        with condition:
            waiting.add(me)
            pick()
            while turn != [me]:
                condition.wait()
            turn.clear()
            waiting.discard(me)

    def wrap(name, function):
        def call(*args, **kwargs):
            if getattr(local, "me", None) is not None:
                pause()
            return function(*args, **kwargs)

        return call

    def run(me, action):
        local.me = me
        try:
            pause()
            results[me] = action()
        except Exception as exc:
            results[me] = exc
        with condition:
            finished.add(me)
            pick()

    with wrapped_storage(wrap):
        threads = [threading.Thread(target=run, args=item) for item in enumerate(actions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    return results
