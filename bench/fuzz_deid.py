"""Fuzzes de-identification with mutated headers, coverage-guided, for a bounded time.

Run: python bench/fuzz_deid.py [SECONDS] [CORPUS]   (needs atheris, see requirements/bench.in)
Every input must get an outcome, in bounded time; what is released must be readable and hold no identifying value of its input.
A failing input is written to the working directory as crash-…; make a small test of it.
"""

import contextlib
import dataclasses
import sys
import tempfile
from pathlib import Path

import atheris
import pydicom

with atheris.instrument_imports(include=["mdm_deid"]):
    from mdm_deid import Deidentifier, Malformed, Outcome, Profile, Pseudonymiser
    from mdm_deid.check.self_check import CheckedDeidentifier
    from mdm_deid.cli.preview import Uncleanable, preview
    from mdm_deid.encoding.part10 import open_part10
    from mdm_deid.encoding.pydicom_log import silence_pydicom
    from mdm_deid.pixels.rule import PixelRules
    from mdm_deid.rules.profile import SHIPPED

_LONGEST = 8192
_RULES = """
[[rule]]
name = "any"
source = "fuzzing"
modalities = ["US", "CT", "MR", "OT"]
sizes = [[64, 64], [128, 128], [2, 2], [3, 3], [10, 10]]
blank = [[0, 0, 2, 1]]
[[rule]]
name = "regions"
source = "fuzzing"
modalities = ["US", "CT", "MR", "OT"]
keep = "ultrasound_regions"
"""


def main() -> None:
    """Fuzz until the time is over."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    silence_pydicom()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="mdm-fuzz-"))
    folder.mkdir(exist_ok=True)
    seed(folder)
    rules = folder.with_suffix(".rules")
    rules.write_text(_RULES)
    pixels = PixelRules.load(str(rules))
    pseudonymiser = Pseudonymiser(b"fuzzing secret, thirty-two bytes")
    checks = []
    for name in SHIPPED:
        profile = dataclasses.replace(Profile.shipped(name), rules=())
        checks.append(CheckedDeidentifier(Deidentifier(profile, pseudonymiser, pixels), profile))

    def one(data: bytes) -> None:
        content = bytes(128) + b"DICM" + data
        for checked in checks:
            result = checked.deidentify(content)
            if (result.data is None) is (result.outcome is Outcome.RELEASED):
                raise AssertionError("data without release, or release without data")
            if result.data is not None:
                open_part10(b"".join(result.data))
            if result.reason == "self_check" and 0 in result.found:
                raise AssertionError("what was released cannot be read again")
        with contextlib.suppress(Malformed, Uncleanable):
            preview(content, pixels)

    limits = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, str(folder)], one)
    atheris.Fuzz()


def seed(folder: Path) -> None:
    """Put the headers of pydicom's test files, without preamble and cut, into an empty corpus."""
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(files.rglob("*.dcm")):
        content = path.read_bytes()
        if content[128:132] == b"DICM":
            (folder / path.name).write_bytes(content[132 : 132 + _LONGEST])


if __name__ == "__main__":
    main()
