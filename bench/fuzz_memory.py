"""Fuzzes what de-identification remembers of series: mutated headers, each compared with what it leads to without memory.

Run: python bench/fuzz_memory.py [SECONDS] [SEED]
Series under all profiles and random options, nested and private elements, in the order of their numbers and others, patients in turn,
self-check on. What is remembered is kept from one group of series to the next, as a site's workers do.
Stops at the first difference, and leaves the file; the same SEED repeats all. Prints how many headers were compared.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

from mdm_deid import Outcome, Pseudonymiser

sys.path.insert(0, str(Path(__file__).parents[1] / "libs/deid/tests/grammar"))
sys.path.insert(0, str(Path(__file__).parents[1] / "libs/deid/tests"))
from series_grammar import SeriesGrammar
from test_memory import pair, random_profile, seen

_PROFILES = 48
_FILES = 60


def main() -> None:
    """Compare until the time is over."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    source, outcomes = random.Random(seed), Counter[Outcome]()
    pseudonymiser = Pseudonymiser(b"fuzzing secret, thirty-two bytes")
    pairs = [pair(random_profile(source), pseudonymiser) for _ in range(_PROFILES)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        remembering, plain = pairs[source.randrange(_PROFILES)]
        for file in SeriesGrammar(source).files(_FILES):
            result = remembering.deidentify(file)
            if seen(result) != seen(plain.deidentify(file)):
                Path(f"crash-{seed}.dcm").write_bytes(file)
                raise SystemExit(f"seed {seed}, header {outcomes.total()}: with memory it comes to something else")
            outcomes[result.outcome] += 1
    told = ", ".join(f"{count} {outcome.lower()}" for outcome, count in sorted(outcomes.items()))
    print(f"seed {seed}: {outcomes.total()} headers compared, no difference: {told}")


if __name__ == "__main__":
    main()
