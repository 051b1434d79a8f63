"""How Hypothesis tries examples: a plugin of pytest that has no fixtures."""

import os

from hypothesis import settings

# No deadlines: how long an example takes tells of the machine's load. Developers explore new examples with every run; continuous
# integration repeats the same ones, so that it judges the change and not the dice.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("soak" if os.environ.get("MDM_SOAK") else "repeat" if os.environ.get("CI") else "explore")
