"""Which examples Hypothesis tries, and how many: the same in every run of the suite, others where one looks for more.

`ci` is the profile unless another is asked for: what has passed once passes again. `explore` (`make explore`) draws
new examples each time, ten times as many, and keeps those that fail for its next run.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

#: What Hypothesis tries where a test says nothing.
_USUAL = 100
#: How long a busy machine takes says nothing about an example.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("ci", max_examples=_USUAL, derandomize=True, **_UNTIMED)
settings.register_profile("explore", max_examples=10 * _USUAL, print_blob=True, **_UNTIMED)
settings.load_profile("ci")


def tries(count: int) -> int:
    """How many examples a test tries that says so itself: `count`, or as many times more as the profile does."""
    return count * settings.default.max_examples // _USUAL
