"""Scans: windows of days whose answers are surely not cut, and the listing of a study."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_dicom_srm.pacs import query
from mdm_dicom_srm.pacs.port import LISTED, Scope
from mdm_dicom_srm.pacs.query import Match, normalise
from mdm_wire.errors import Unavailable


@dataclass
class FakeSearch:
    """A query service over studies (UID, date, hour), which cuts its answers at `limit` without a word."""

    studies: list[tuple[str, str, int]]
    limit: int = 10**9
    knows_ranges: bool = True
    asked: list[Mapping[str, object]] = field(default_factory=list)
    most: int = 0

    def find(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Iterator[Match]:
        assert level == query.STUDY
        self.asked.append(keys)
        found = [item for item in self.studies if self._matches(item, str(keys["StudyDate"]), str(keys.get("StudyTime", "")))]
        for number, (uid, day, _) in enumerate(found[: self.limit]):
            self.most = max(self.most, number + 1)
            yield dict.fromkeys(keys, "") | {"StudyInstanceUID": uid, "StudyDate": day}

    def _matches(self, item: tuple[str, str, int], days: str, times: str) -> bool:
        if days and self.knows_ranges:
            first, dash, last = days.partition("-")
            if not item[1] or not first <= item[1] <= ((last or "99999999") if dash else first):
                return False
        return not times or f"{item[2]:02d}" == times[:2]


def test_a_small_pacs_is_asked_twice_for_everything() -> None:
    search = FakeSearch([("1", "20200101", 0), ("2", "", 0), ("3", "18000101", 0)])
    assert sorted(query.studies(search, Scope())) == ["1", "2", "3"]
    assert len(search.asked) == 2


@given(st.lists(st.dates(date(1, 1, 1), date(9999, 12, 31)), max_size=30), st.integers(100, 130))
def test_every_dated_study_is_found_once_though_answers_are_cut(days: list[date], limit: int) -> None:
    many = [date(2020, 1, 1) + timedelta(days=n % 9) for n in range(300)]
    studies = [(str(number), f"{day.year:04d}{day:%m%d}", 0) for number, day in enumerate([*days, *many])]
    assert sorted(query.studies(FakeSearch(studies, limit), Scope())) == sorted(uid for uid, _, _ in studies)


def test_a_day_with_more_studies_than_an_answer_is_asked_by_the_hour() -> None:
    studies = [(str(number), "20200101", number % 24) for number in range(500)]
    assert sorted(query.studies(FakeSearch(studies, 120), Scope())) == sorted(uid for uid, _, _ in studies)


def test_a_range_of_dates_asks_for_nothing_else() -> None:
    studies = [(str(number), f"202001{number % 28 + 1:02d}", 0) for number in range(1000)] + [("x", "", 0)]
    search = FakeSearch(studies)
    found = sorted(query.studies(search, Scope(since=date(2020, 1, 3), until=date(2020, 1, 4))))
    assert found == sorted(uid for uid, day, _ in studies if day in ("20200103", "20200104"))
    assert {len(str(keys["StudyDate"])) for keys in search.asked} <= {8, 17}


def test_a_pacs_that_ignores_ranges_is_refused_and_not_asked_for_ever() -> None:
    search = FakeSearch([(str(number), "20200101", 0) for number in range(150)], knows_ranges=False)
    with pytest.raises(Unavailable, match="ranges"):
        list(query.studies(search, Scope(since=date(2021, 1, 1))))


def test_a_cut_listing_is_noticed() -> None:
    class Cutting:
        def find(self, level: str, keys: Mapping[str, str | Sequence[str]]) -> Iterator[Match]:
            for number in range(1 if level != query.IMAGE else 100):
                yield dict.fromkeys(keys, "") | {
                    "SeriesInstanceUID": "1.1",
                    "SOPInstanceUID": f"1.1.{number}",
                    "NumberOfSeriesRelatedInstances": "101",
                }

    listed = []
    with pytest.raises(Unavailable, match="fewer instances"):
        for item in query.listing(Cutting(), "1", "main"):
            listed.append(item)
    assert len(listed) == 100
    assert listed[0].locator.pacs == "main"
    assert listed[0].attributes == dict.fromkeys(LISTED, "")


@pytest.mark.parametrize(
    ("keyword", "values", "text"),
    [
        ("PatientName", ["Müller^Ann^^^ "], "Müller^Ann"),
        ("PatientName", ["Yamada^Tarou=山田^太郎="], "Yamada^Tarou=山田^太郎"),
        ("PatientName", [None], ""),
        ("InstanceNumber", [" 007 "], "7"),
        ("Rows", [512], "512"),
        ("NumberOfFrames", ["many"], "many"),
        ("PatientID", [" P 1\0"], "P 1"),
        ("ModalitiesInStudy", ["CT", "SR"], "CT\\SR"),
        ("StudyDate", [], ""),
    ],
)
def test_values_are_written_alike_whichever_way_they_came(keyword: str, values: list[object], text: str) -> None:
    assert normalise(keyword, values) == text
