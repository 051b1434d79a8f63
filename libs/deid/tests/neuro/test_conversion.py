"""What dcm2niix makes of series before and after de-identification, and the page that says it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.rules.profile import SHIPPED

pytestmark = pytest.mark.integration
PAGE = Path(__file__).parents[4] / "docs" / "user" / "neuroimaging.md"
MAKERS: Final = ("Siemens", "Siemens XA", "GE", "Philips")
TIMING: Final = ("SliceTiming",)
PHASE: Final = ("PhaseEncodingDirection", "EffectiveEchoSpacing", "TotalReadoutTime")
REPETITION: Final = ("RepetitionTime",)
# What the fabricated persons are called, in every text that a series has.
NAMES: Final = (b"quigley", b"zebedee", b"445566")

Convert = Callable[[list[bytes]], list[Any]]
Make = Callable[[str, bool], list[bytes]]


@pytest.fixture(scope="module")
def before(make: Make, converted: Convert) -> Callable[[str, bool], list[Any]]:
    return cache(lambda maker, diffusion: converted(make(maker, diffusion)))


@pytest.fixture(scope="module")
def after(make: Make, converted: Convert) -> Callable[[str, str, bool], list[Any]]:
    return cache(lambda profile, maker, diffusion: converted(deidentified(profile, make(maker, diffusion))))


def deidentified(name: str, files: list[bytes]) -> list[bytes]:
    profile = Profile.shipped(name)
    deidentifier = CheckedDeidentifier(Deidentifier(profile, Pseudonymiser(b"0123456789abcdef0123456789abcdef")), profile)
    results = [deidentifier.deidentify(content) for content in files]
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.RELEASED, "")}
    return [b"".join(result.data or []) for result in results]


def sidecars(volumes: list[Any], keys: tuple[str, ...]) -> list[Any]:
    return [[volume.sidecar.get(key) for key in keys] for volume in volumes]


def images(volumes: list[Any]) -> list[Any]:
    return [(volume.shape, volume.affine, volume.values) for volume in volumes]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("diffusion", [False, True], ids=["functional", "diffusion"])
def test_neuro_changes_nothing_that_a_converter_makes_of_a_series(maker: str, diffusion: bool, before: Any, after: Any) -> None:
    old, new = before(maker, diffusion), after("neuro", maker, diffusion)
    assert images(new) == images(old)
    assert [(volume.b_values, volume.b_vectors) for volume in new] == [(volume.b_values, volume.b_vectors) for volume in old]
    assert bool(diffusion) == bool(old[0].b_values)
    for keys in (TIMING, PHASE, ("ParallelReductionFactorInPlane", "MultibandAccelerationFactor", "RepetitionTime", "EchoTime")):
        assert sidecars(new, keys) == sidecars(old, keys)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("profile", SHIPPED)
def test_no_person_survives_in_what_converters_need(maker: str, profile: str, make: Make) -> None:
    for diffusion in (False, True):
        for original in make(maker, diffusion):
            assert all(name in original.lower() for name in NAMES)
        for content in deidentified(profile, make(maker, diffusion)):
            assert not [name for name in NAMES if name in content.lower()]


def test_the_page_says_what_each_profile_breaks(before: Any, after: Any) -> None:
    wanted = [row(profile, maker, before, after) for maker in MAKERS for profile in ("neuro", "research", "basic", "strict")]
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(("| Siemens", "| GE", "| Philips"))]
    assert "\n".join(written) == "\n".join(wanted)


def row(profile: str, maker: str, before: Any, after: Any) -> str:
    """Return a row of the page's table: what is the same, lost or wrong; a dash where the original has none."""
    old, new = before(maker, False), after(profile, maker, False)
    old_diffusion, new_diffusion = before(maker, True), after(profile, maker, True)
    cells = [
        "same" if images(old) == images(new) and images(old_diffusion) == images(new_diffusion) else "**wrong**",
        word([volume.b_values for volume in old_diffusion], [volume.b_values for volume in new_diffusion]),
        word([volume.b_vectors for volume in old_diffusion], [volume.b_vectors for volume in new_diffusion]),
        word(sidecars(old, TIMING), sidecars(new, TIMING)),
        word(sidecars(old, PHASE[:1]), sidecars(new, PHASE[:1])),
        word(sidecars(old, REPETITION), sidecars(new, REPETITION)),
    ]
    return f"| {maker} | `{profile}` | {' | '.join(cells)} |"


def word(old: list[Any], new: list[Any]) -> str:
    nothing = ([""], [[None]])
    if old[:1] in nothing:
        return "–"
    return "same" if old == new else "lost" if new[:1] in nothing or not new else "**wrong**"
