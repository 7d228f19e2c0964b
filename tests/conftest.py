"""What all tests share."""

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

# Times say nothing on a shared machine.
settings.register_profile("millstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millstream")

QUICK_EXAMPLES = 5
"""Of each law, in the quick part; all tests together look at as many as the law asks for."""
_SETTINGS = "_hypothesis_internal_use_settings"
"""Where Hypothesis keeps a test's settings."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "not slow" not in (config.getoption("markexpr") or ""):
        return
    for item in items:
        test = getattr(item, "function", None)
        if is_hypothesis_test(test) and (asked := getattr(test, _SETTINGS, None)):
            few = min(asked.max_examples, QUICK_EXAMPLES)
            setattr(test, _SETTINGS, settings(asked, max_examples=few))
