"""How many examples hypothesis tries: some in a normal run, always the same; 100,000 new ones for a night.

The night is ``python -m pytest --hypothesis-profile=fuzz``.
"""

import hypothesis

NORMAL = 40


def register_profiles():
    """The two profiles; the normal one is in force.

    Derandomized, so that a failure is of the change at hand; no database, so that tests leave nothing behind.
    """
    normal = hypothesis.settings(deadline=None, derandomize=True, max_examples=NORMAL, database=None)
    hypothesis.settings.register_profile("gaudi3_rt", normal)
    slow = list(hypothesis.HealthCheck)
    night = hypothesis.settings(normal, derandomize=False, max_examples=100_000, suppress_health_check=slow)
    hypothesis.settings.register_profile("fuzz", night)
    hypothesis.settings.load_profile("gaudi3_rt")


def examples(normal):
    """Decorates a test that has ``normal`` examples in a normal run."""
    is_normal = hypothesis.settings.default.max_examples == NORMAL
    return hypothesis.settings(max_examples=normal) if is_normal else hypothesis.settings()
