"""Fuzzes de-identification with mutated headers and mutated choices of grammars, coverage-guided, for a bounded time.

Run: python bench/fuzz_deid.py [SECONDS] [CORPUS]   (needs atheris, see requirements/bench.in)
Every input must get an outcome, in bounded time; what is released must be readable and hold no identifying value of its input.
An input that begins with FF is a list of choices by which the tests' grammars build a file with a text in every place where one can be;
that text must not be released.
A failing input is written to the working directory as crash-…; make a small test of it.
"""

import contextlib
import dataclasses
import random
import sys
import tempfile
from pathlib import Path

import atheris
import pydicom

with atheris.instrument_imports(include=["mdm_deid"]):
    from mdm_deid import Deidentifier, Malformed, Outcome, Profile, Pseudonymiser
    from mdm_deid.check.self_check import CheckedDeidentifier
    from mdm_deid.cli.preview import Unblankable, preview
    from mdm_deid.encoding.part10 import open_part10
    from mdm_deid.encoding.pydicom_log import silence_pydicom
    from mdm_deid.pixels.rule import PixelRules
    from mdm_deid.rules.profile import SHIPPED

sys.path.insert(0, str(Path(__file__).parents[1] / "libs/deid/tests/grammar"))
from data_set_grammar import DataSetGrammar
from stream_grammar import FORMATS, TEXT, Grammar, dicom

_LONGEST = 8192
_CHOICES = b"\xff"
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
        if data.startswith(_CHOICES):
            by_grammar(checks[0], Choices(data[1:]))
            return
        content = bytes(128) + b"DICM" + data
        for checked in checks:
            result = checked.deidentify(content)
            if (result.data is None) is (result.outcome is Outcome.RELEASED):
                raise AssertionError("data without release, or release without data")
            if result.data is not None:
                open_part10(b"".join(result.data))
            if result.reason == "self_check" and 0 in result.found:
                raise AssertionError("what was released cannot be read again")
        with contextlib.suppress(Malformed, Unblankable):
            preview(content, pixels)

    limits = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, str(folder)], one)
    atheris.Fuzz()


class Choices(random.Random):
    """Takes its numbers from an input, so that a mutated input is a mutated list of choices; the first ones where it ends."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._pos = 0

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Return a number of the range."""
        numbers = range(start) if stop is None else range(start, stop, step)
        taken = self._data[self._pos : self._pos + (1 if len(numbers) <= 256 else 2)]
        self._pos += len(taken)
        return numbers[int.from_bytes(taken, "big") % len(numbers)]


def by_grammar(checked: CheckedDeidentifier, choices: Choices) -> None:
    """Build one file and de-identify it."""
    form = choices.randrange(len(FORMATS) + 1)
    if form == len(FORMATS):
        content = DataSetGrammar(choices).part10()
    else:
        grammar, syntax = Grammar(choices), list(FORMATS)[form]
        frame, samples = FORMATS[syntax](grammar)
        items, tables = grammar.encapsulated([frame])
        content = dicom(syntax, items, samples, 1, tables)
    result = checked.deidentify(content)
    if result.data is not None and TEXT[:9] in open_part10(b"".join(result.data)).data.tobytes():
        raise AssertionError("a text was released")


def seed(folder: Path) -> None:
    """Put the headers of pydicom's test files, without preamble and cut, into an empty corpus, and choices for the grammars."""
    for number in range(64):
        (folder / f"choices-{number}").write_bytes(_CHOICES + random.Random(number).randbytes(96))
    files = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(files.rglob("*.dcm")):
        content = path.read_bytes()
        if content[128:132] == b"DICM":
            (folder / path.name).write_bytes(content[132 : 132 + _LONGEST])


if __name__ == "__main__":
    main()
