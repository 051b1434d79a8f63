"""The guard can fail, and says why."""

from pathlib import Path

from tests.cost.judge import Count, judge, read_limits

LIMITS = {"rpcs of catalog": 1.0, "statements of catalog": 4.0}


def counts(rpcs: int = 40, statements: int = 120) -> dict[str, Count]:
    return {
        "rpcs of catalog": Count.of({"RegisterFiles": rpcs - 10, "Resolve": 10}, 40),
        "statements of catalog": Count.of({"SELECT": statements}, 40),
    }


def test_counts_within_their_limits_pass() -> None:
    assert judge("fetch", counts(), LIMITS) == []


def test_one_call_too_many_for_an_image_fails_and_is_named() -> None:
    [line] = judge("fetch", counts(rpcs=80), LIMITS)
    assert line == "fetch: rpcs of catalog grew to 2.00 (RegisterFiles 1.75, Resolve 0.25) for each image; at most 1"


def test_every_count_that_grew_is_reported() -> None:
    assert len(judge("fetch", counts(rpcs=41, statements=161), LIMITS)) == 2


def test_a_count_without_a_limit_fails() -> None:
    [line] = judge("fetch", counts() | {"rpcs of metadata": Count(0.5)}, LIMITS)
    assert line == "fetch: no limit for rpcs of metadata, which is 0.50"


def test_a_limit_for_what_nobody_counts_fails() -> None:
    [line] = judge("fetch", {"rpcs of catalog": Count(0.5)}, LIMITS)
    assert line == "fetch: statements of catalog has a limit and was not counted"


def test_limits_are_read_by_action(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text('[fetch]\n"rpcs of catalog" = 0.5\n')
    assert read_limits(tmp_path / "limits.toml") == {"fetch": {"rpcs of catalog": 0.5}}
