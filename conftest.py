"""Registers the fixtures of `tests/support` that every test may use (PostgreSQL, PKI), and sets how Hypothesis tries examples."""

import os

from hypothesis import settings

pytest_plugins = ["mdm_testing.postgres", "mdm_testing.pki"]

# No deadlines: how long an example takes depends on the machine's load. Developers explore new examples with every run; continuous
# integration repeats the same ones, so that a failure comes from the change and not from chance.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("soak" if os.environ.get("MDM_SOAK") else "repeat" if os.environ.get("CI") else "explore")
