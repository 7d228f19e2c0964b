"""What all tests share."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

FUZZ = int(os.environ.get("MILLSTREAM_FUZZ") or 0)
"""How many times as many examples each law is held against, of which none is known beforehand."""

# Times say nothing on a shared machine. Whether a change passes is not left to chance: the examples
# are those of the last time, but where somebody looks for new ones (make fuzz).
settings.register_profile(
    "millstream",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not FUZZ,
)
settings.load_profile("millstream")

QUICK_EXAMPLES = 5
"""Of each law, in the quick part; all tests together look at as many as the law asks for."""
_SETTINGS = "_hypothesis_internal_use_settings"
"""Where Hypothesis keeps a test's settings."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    laws = [item for item in items if is_hypothesis_test(getattr(item, "function", None))]
    if FUZZ:
        config.hook.pytest_deselected(items=[item for item in items if item not in laws])
        items[:] = laws
        _look_at(laws, lambda examples: examples * FUZZ)
    elif "not slow" in (config.getoption("markexpr") or ""):
        _look_at(laws, lambda examples: min(examples, QUICK_EXAMPLES))


def _look_at(laws: list[pytest.Item], examples: Callable[[int], int]) -> None:
    """Change how many examples laws are held against."""
    for test in {item.function for item in laws if isinstance(item, pytest.Function)}:
        if asked := getattr(test, _SETTINGS, None):
            changed = settings(asked, max_examples=examples(asked.max_examples))
            setattr(test, _SETTINGS, changed)
