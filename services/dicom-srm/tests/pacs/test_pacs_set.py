"""Several PACS of one site: whom an instance is asked of, and what counts as gone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from mdm_dicom_srm.pacs.pacs_set import PacsSet
from mdm_dicom_srm.pacs.port import NOT_IN_PACS, InstanceLocator, ListedInstance, MissingInstance, Pacs, RetrievedInstance, Scope
from mdm_wire.errors import Unavailable


@dataclass
class FakePacs:
    """Has some instances of the study "1"."""

    has: set[str]
    away: bool = False
    broken: set[str] = field(default_factory=set)
    asked: list[list[str]] = field(default_factory=list)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("PACS_UNAVAILABLE", "away")

    def retrieve(self, instances: Sequence[InstanceLocator]) -> Iterator[RetrievedInstance | MissingInstance]:
        self.asked.append([locator.sop_uid for locator in instances])
        self._check()
        for locator in instances:
            if locator.sop_uid in self.broken:
                yield MissingInstance(locator.sop_uid, "PACS_NOT_DELIVERED")
            elif locator.sop_uid in self.has:
                yield RetrievedInstance(locator.sop_uid, b"")
            else:
                yield MissingInstance(locator.sop_uid, NOT_IN_PACS)

    def headers(self, study_uid: str) -> Iterator[object]:
        self._check()
        yield from ()

    def studies(self, scope: Scope) -> Iterator[str]:
        self._check()
        yield from ["1"] if self.has else []

    def listing(self, study_uid: str) -> Iterator[ListedInstance]:
        self._check()
        yield from (ListedInstance(InstanceLocator("1", "1.1", uid), "", {}) for uid in sorted(self.has))

    def ping(self) -> None:
        self._check()


def site(**members: FakePacs) -> PacsSet:
    return PacsSet(members)  # type: ignore[arg-type]


def at(sop_uid: str, pacs: str = "") -> InstanceLocator:
    return InstanceLocator("1", "1.1", sop_uid, pacs)


def outcome(pacs: Pacs, wanted: list[InstanceLocator]) -> dict[str, str]:
    """By instance: the PACS that delivered it, or why none did."""
    items = list(pacs.retrieve(wanted))
    assert len({item.sop_uid for item in items}) == len(items)
    return {item.sop_uid: item.reason if isinstance(item, MissingInstance) else item.pacs for item in items}


def test_an_instance_is_asked_of_the_pacs_that_it_is_bound_to() -> None:
    main, cardio = FakePacs({"a", "b"}), FakePacs({"a", "b"})
    assert outcome(site(main=main, cardio=cardio), [at("a", "main"), at("b", "cardio")]) == {"a": "main", "b": "cardio"}
    assert (main.asked, cardio.asked) == ([["a"]], [["b"]])


def test_what_its_pacs_lacks_is_looked_for_in_the_others_before_it_counts_as_gone() -> None:
    pacs = site(main=FakePacs({"a"}), cardio=FakePacs({"b"}), old=FakePacs({"c"}))
    wanted = [at("a", "cardio"), at("b", "cardio"), at("c", "cardio"), at("d", "cardio")]
    assert outcome(pacs, wanted) == {"a": "main", "b": "cardio", "c": "old", "d": NOT_IN_PACS}


def test_an_instance_of_an_unknown_pacs_is_looked_for_everywhere() -> None:
    pacs = site(main=FakePacs({"a"}), cardio=FakePacs({"b"}))
    assert outcome(pacs, [at("a"), at("b"), at("a2", "dismantled")]) == {"a": "main", "b": "cardio", "a2": NOT_IN_PACS}


def test_a_pacs_that_is_away_fails_its_own_instances_only_and_none_is_gone() -> None:
    pacs = site(main=FakePacs(set(), away=True), cardio=FakePacs({"b", "c"}))
    found = outcome(pacs, [at("a", "main"), at("b", "cardio"), at("c", "main"), at("d", "cardio")])
    assert found == {"a": "PACS_UNAVAILABLE", "b": "cardio", "c": "cardio", "d": "PACS_UNAVAILABLE"}


def test_what_a_pacs_has_but_cannot_send_is_not_gone() -> None:
    pacs = site(main=FakePacs({"a"}, broken={"a"}), cardio=FakePacs(set()))
    assert outcome(pacs, [at("a", "main")]) == {"a": "PACS_NOT_DELIVERED"}


def test_the_only_pacs_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        outcome(site(pacs=FakePacs(set(), away=True)), [at("a")])


def test_listings_and_studies_are_those_of_all_and_incomplete_ones_fail() -> None:
    main, cardio = FakePacs({"a", "b"}), FakePacs({"b"})
    pacs = site(main=main, cardio=cardio)
    assert [item.locator.sop_uid for item in pacs.listing("1")] == ["a", "b", "b"]
    assert list(pacs.studies(Scope())) == ["1", "1"]
    main.away = True
    found = []
    with pytest.raises(Unavailable):
        found.extend(pacs.listing("1"))
    studies = []
    with pytest.raises(Unavailable):
        for study in pacs.studies(Scope()):
            studies.append(study)
    assert studies == ["1"], "the others are scanned all the same"
    with pytest.raises(Unavailable):
        pacs.ping()
