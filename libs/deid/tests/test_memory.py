"""What is remembered of a series changes nothing but the time: every file leads to what it leads to alone, whatever came before it."""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Malformed, Outcome, Patient, Profile, Pseudonymiser, Result
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.encoding.element import EXPLICIT_LE
from mdm_deid.encoding.part10 import open_part10
from mdm_deid.encoding.remembered_run import LONGEST_HEADER, Items, RecentSeries, Runs
from mdm_deid.rules.facts import steers
from mdm_deid.rules.profile import SHIPPED
from mdm_deid.rules.rule import FULL_DATES, MODIFIED_DATES, OPTIONS
from series_grammar import SeriesGrammar

Seen = tuple[Outcome, str, bytes, dict[str, int], bool, tuple[int, ...]]


def seen(result: Result) -> Seen:
    """Return all that a caller sees of a result."""
    return result.outcome, result.reason, b"".join(result.data or []), dict(result.counts), result.checked, result.found


def pair(profile: Profile, pseudonymiser: Pseudonymiser) -> tuple[CheckedDeidentifier, CheckedDeidentifier]:
    """Return a de-identifier that remembers and one that does not."""
    with_memory = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile)
    return with_memory, CheckedDeidentifier(Deidentifier(profile, pseudonymiser, remembered=0), profile, remembered=0)


def random_profile(source: random.Random) -> Profile:
    """Return a shipped profile, with other options more often than not; no rule holds an instance back."""
    profile = dataclasses.replace(Profile.shipped(SHIPPED[source.randrange(len(SHIPPED))]), rules=())
    if source.randrange(3):
        options = {option for option in sorted(OPTIONS) if source.randrange(2)}
        profile = dataclasses.replace(profile, options=frozenset(options - {source.choice((FULL_DATES, MODIFIED_DATES))}))
    return profile


def differences(profile: Profile, pseudonymiser: Pseudonymiser, files: Iterable[bytes]) -> list[tuple[int, Seen, Seen]]:
    remembering, plain = pair(profile, pseudonymiser)
    both = ((number, seen(remembering.deidentify(file)), seen(plain.deidentify(file))) for number, file in enumerate(files))
    return [(number, one, other) for number, one, other in both if one != other]


@settings(max_examples=30)
@given(source=st.randoms(use_true_random=False))
def test_every_file_leads_to_what_it_leads_to_alone(pseudonymiser: Pseudonymiser, source: random.Random) -> None:
    assert differences(random_profile(source), pseudonymiser, SeriesGrammar(source).files(12)) == []


@pytest.mark.parametrize("seed", range(10))
def test_so_too_in_long_series(pseudonymiser: Pseudonymiser, seed: int) -> None:
    """Numbers drawn evenly make longer and more varied series than examples that can be made smaller."""
    source = random.Random(seed)
    assert differences(random_profile(source), pseudonymiser, SeriesGrammar(source).files(40)) == []


def test_the_series_of_these_tests_reach_what_is_remembered(pseudonymiser: Pseudonymiser) -> None:
    """Else these tests would compare nothing: most files are released, some not, and runs are met again."""
    outcomes: Counter[str] = Counter()
    for seed in range(12):
        source = random.Random(seed)
        _, plain = pair(random_profile(source), pseudonymiser)
        outcomes.update(plain.deidentify(file).outcome for file in SeriesGrammar(source).files(12))
    assert outcomes[Outcome.RELEASED] > 60
    assert outcomes[Outcome.FAILED] and outcomes[Outcome.QUARANTINED]


def test_two_patients_of_one_series_do_not_mix(explicit: Any, pseudonymiser: Pseudonymiser) -> None:
    """All that differs is the Patient ID, on which pseudonym, dates and labels depend."""

    def file(patient: bytes, number: int) -> bytes:
        inner = explicit.element(0x00080022, "DA", b"20200102") + explicit.element(0x00400007, "LO", b"Abdomen of Nowak")
        return explicit.file(
            {
                0x00080022: explicit.element(0x00080022, "DA", b"20200102"),
                0x0008103E: explicit.element(0x0008103E, "LO", b"Abdomen"),
                0x00100010: explicit.element(0x00100010, "PN", b"Nowak^Zofia"),
                0x00100020: explicit.element(0x00100020, "LO", patient),
                0x0020000E: explicit.element(0x0020000E, "UI", b"1.2.826.77.1"),
                0x00200013: explicit.element(0x00200013, "IS", b"%d" % number),
                0x00400275: explicit.element(0x00400275, "SQ", explicit.item(inner)),
            }
        )

    profile = dataclasses.replace(Profile.shipped("research"), rules=())
    files = [file(patient, number) for number in range(4) for patient in (b"PAT-1", b"PAT-1", b"PAT-2")]
    assert differences(profile, pseudonymiser, files) == []
    remembering, _ = pair(profile, pseudonymiser)
    outputs = [b"".join(remembering.deidentify(content).data or []) for content in files]
    pseudonyms = [pseudonymiser.patient(patient).encode() for patient in ("PAT-1", "PAT-2")]
    assert all(pseudonyms[0] in outputs[index] and pseudonyms[1] not in outputs[index] for index in (0, 1, 3, 4))
    assert all(pseudonyms[1] in outputs[index] and pseudonyms[0] not in outputs[index] for index in (2, 5))


def test_the_patient_of_the_study_counts_not_the_one_before(ct_small: bytes, pseudonymiser: Pseudonymiser) -> None:
    profile = dataclasses.replace(Profile.shipped("research"), rules=())
    remembering, plain = pair(profile, pseudonymiser)
    rule = [Patient("1CT1", ""), Patient("01CT1", ""), None, Patient("1CT1", "X"), Patient("2CT2", ""), Patient("1CT1", "")]
    for patient in rule * 3:
        assert seen(remembering.deidentify(ct_small, patient)) == seen(plain.deidentify(ct_small, patient))


def test_threads_do_not_share_what_they_remember(pseudonymiser: Pseudonymiser) -> None:
    profile = dataclasses.replace(Profile.shipped("research"), rules=())
    remembering, plain = pair(profile, pseudonymiser)
    series = [list(SeriesGrammar(random.Random(seed)).files(12)) for seed in range(4)]
    alone = [[seen(plain.deidentify(file)) for file in files] for files in series]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda files: [seen(remembering.deidentify(file)) for file in files], series)) == alone


def test_most_of_a_series_is_not_read_again(ct_small: bytes) -> None:
    opened = open_part10(ct_small)
    runs: Runs[None] = Runs(opened.encoding, steers)
    text, read = bytes(opened.data[:LONGEST_HEADER]), []
    for number in range(4):
        changed = text.replace(b"-77.2040634155", b"-77.204063415%d" % number)
        pieces = runs.pieces(changed, opened.start)
        assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
        read.append(sum(piece.end - piece.start for piece in pieces if piece.run is None))
    whole = pieces[-1].end - opened.start
    assert read[0] == whole
    assert read[3] < whole / 4


def test_a_run_that_changed_is_not_taken_for_what_it_was(explicit: Any) -> None:
    def header(*values: bytes) -> bytes:
        return b"".join(explicit.element(0x00180050 + number, "DS", value) for number, value in enumerate(values))

    runs: Runs[str] = Runs(EXPLICIT_LE, steers)
    for _ in range(2):
        pieces = runs.pieces(header(b"1 ", b"2 ", b"3 "), 0)
    (run,) = [piece.run for piece in pieces]
    assert run is not None
    run.outcome = "known"
    assert [piece.run for piece in runs.pieces(header(b"1 ", b"2 ", b"3 "), 0)] == [run]
    changed = runs.pieces(header(b"1 ", b"9 ", b"3 "), 0)
    assert [(piece.first, piece.run and piece.run.outcome) for piece in changed] == [(0x180050, None), (0x180051, None), (0x180052, None)]
    assert [piece.run is None for piece in changed] == [False, True, False]
    # What varied once is read in every file, though it is the same again.
    assert [piece.run is None for piece in runs.pieces(header(b"1 ", b"9 ", b"3 "), 0)] == [False, True, False]


def test_headers_out_of_order_are_read_as_a_whole(explicit: Any) -> None:
    runs: Runs[None] = Runs(EXPLICIT_LE, steers)
    with pytest.raises(Malformed):
        runs.pieces(explicit.element(0x00180050, "DS", b"1 ") + explicit.element(0x00080060, "CS", b"CT"), 0)


def test_memory_is_bounded(explicit: Any) -> None:
    recent: RecentSeries[Runs[None]] = RecentSeries(2, lambda encoding: Runs(encoding, steers))
    headers = [explicit.element(0x0020000E, "UI", b"1.2.%d0" % number) for number in range(3)]
    assert [recent.find(header, 0, EXPLICIT_LE) for header in headers] == [None, None, None]
    second, third = (recent.find(header, 0, EXPLICIT_LE) for header in headers[1:])
    assert second is not None and third is not None and second is not third
    assert (recent.find(headers[1], 0, EXPLICIT_LE), recent.find(headers[2], 0, EXPLICIT_LE)) == (second, third)
    assert recent.find(headers[0], 0, EXPLICIT_LE) is None
    assert recent.find(headers[2], 0, EXPLICIT_LE) is third
    assert recent.find(headers[1], 0, EXPLICIT_LE) is None
    items: Items[int] = Items()
    for number in range(10_000):
        items.put(number, b"%064d" % number)
    kept = [number for number in range(10_000) if items.get(1, b"%064d" % number) is not None]
    assert 9_999 in kept
    assert len(kept) * 64 <= LONGEST_HEADER


def test_items_that_always_change_stop_being_looked_up() -> None:
    items: Items[int] = Items()
    looked_up = 0
    for number in range(1000):
        if items.remembers(0x00081140, 100):
            looked_up += 1
            assert items.get(0x00081140, b"%d" % number) is None
    assert looked_up < 100
    assert items.remembers(0x00082112, 100)
    assert not items.remembers(0x00082112, 1 << 20)
