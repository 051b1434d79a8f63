"""Dates and times: what can mean one thing only is read, anything else is no date, and no dummy takes its place unless it must."""

import dataclasses
import datetime
import io
from typing import Any

import pydicom
import pytest
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.rules.date import NOT_MOVED, possible_digits, read_date, shifted
from mdm_dicom_srm.register.rules import attribute
from mdm_dicom_srm.register.rules.header_values import HeaderValues
from mdm_dicom_srm.register.rules.port import Attribute

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
RETIRED = "1.2.840.10008.5.1.4.1.1.12.3"
STUDY_DATE, SERIES_DATE, CONTENT_DATE, MOMENT, STUDY_TIME = 0x00080020, 0x00080021, 0x00080023, 0x0008002A, 0x00080030
FULL_DATES = frozenset({"retain_longitudinal_full_dates"})

DATES = [
    *("20210317", "20210317 ", "20210317\0", " 20210317", "2021-03-17", "2021/03/17", "2021.03.17", "2021 03 17", "2021-3-17"),
    *("20210317101530", "20210317101530.5+0100", "2021-03-17T10:15:30", "2021-03-17 10:15:30", "2021-03-17T10:15:30Z", "20210317 101530"),
    *("17/03/2021", "03/17/2021", "17.03.2021", "17-Mar-2021", "17 MARCH 2021", "Mar 17, 2021", "17MAR2021"),
    *("2021:03:17", "2021:03:17 10:15:30"),
]
NO_DATES = [
    *("00000000", "20210000", "20210230", "20211301", "2021", "202103", "210317", "17.03.21", "03/04/2021", "unknown", "2021-03/17"),
    *("20210317-20210401", "2021-03-17-2021-04-01", "20210317-", "0", "2021-13-01", "20210317x", "2021-03-17T", "99999999", "----"),
    *("2021:13:17", "20:21:03", "2021:03:17:10"),
    *("17/03/2021/1", "1" * 3000, "20210317" * 5000, "\xb2021\xb3\xb17", "٢٠٢١٠٣١٧", "20210317 Zorgvliet", "\\", "  "),
]
TIMES = {
    "101530": "101530",
    "10:15:30": "101530",
    "1015": "1015",
    "10:15": "1015",
    "10": "10",
    "1:15:30": "011530",
    "101530.5": "101530.5",
    "10:15:30.123456": "101530.123456",
    "101530,5": "101530.5",
    "101530.1234567": "101530.123456",
    "235960": "235960",
    "20210317101530": "101530",
    "2021-03-17T10:15:30": "101530",
    "101530 ": "101530",
    "101530.": "101530",
    **dict.fromkeys(
        ("240000", "236060", "91530", "10:15:30Z", "2021-03-17T10:15:30+0100", "1000-1200", "noon", "20210317", "9" * 9999), ""
    ),
}
MOMENTS = {
    "20210317101530.123456+0100": "20210317101530.123456+0100",
    "2021": "2021",
    "202103": "202103",
    "2021-03": "202103",
    "2021-0500": "2021-0500",
    "20210317": "20210317",
    "2021-03-17": "20210317",
    "20210317-0500": "20210317-0500",
    "2021-03-17T10:15:30Z": "20210317101530+0000",
    "2021-03-17T10:15:30.5+01:00": "20210317101530.5+0100",
    "2021-03-17 10:15": "202103171015",
    "17/03/2021 10:15:30": "20210317101530",
    **dict.fromkeys(("03/04/2021 10:15", "20210317996060", "20210101-20210331", "2021-0317", "20210317101530+1500", "0" * 14, "today"), ""),
}


@pytest.fixture(scope="session", params=["basic", "research", "neuro", "strict", "full dates"])
def profile(request: pytest.FixtureRequest) -> Profile:
    if request.param == "full dates":
        return dataclasses.replace(Profile.shipped("basic"), rules=(), options=FULL_DATES)
    return dataclasses.replace(Profile.shipped(request.param), rules=())


def anonymous(profile: Profile, pseudonymiser: Pseudonymiser, file: bytes) -> pydicom.Dataset:
    result = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile).deidentify(file)
    assert result.outcome is Outcome.RELEASED, result.reason
    return pydicom.dcmread(io.BytesIO(b"".join(result.data or [])))


def as_metadata(dataset: pydicom.Dataset, keyword: str) -> Any:
    return attribute.value(HeaderValues({keyword: dataset.get(keyword)}, frozenset()), Attribute(keyword, "date"))


def expected(profile: Profile, pseudonymiser: Pseudonymiser, day: datetime.date) -> datetime.date | None:
    moved = datetime.timedelta(pseudonymiser.date_offset_days("PATIENT-0815"))
    return {"remove": None, "shift": day + moved, "keep": day}[profile.dates]


@pytest.mark.parametrize("written", DATES)
def test_a_date_written_otherwise_is_read_where_it_can_mean_one_day_only(
    profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any, written: str
) -> None:
    study, nested = (explicit.element(tag, "DA", written.encode()) for tag in (STUDY_DATE, CONTENT_DATE))
    file = explicit.file({STUDY_DATE: study, 0x00081115: explicit.element(0x00081115, "SQ", explicit.item(nested))})
    output = anonymous(profile, pseudonymiser, file)
    day = expected(profile, pseudonymiser, datetime.date(2021, 3, 17))
    assert output.StudyDate == (day.strftime("%Y%m%d") if day else "")
    assert as_metadata(output, "StudyDate") == (day and day.isoformat())
    if day:
        assert output.ReferencedSeriesSequence[0].ContentDate == output.StudyDate


@pytest.mark.parametrize("written", NO_DATES)
def test_what_is_no_date_is_empty_where_it_may_be_and_null_in_metadata(
    profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any, written: str
) -> None:
    value = written.encode("utf-8")
    file = explicit.file({tag: explicit.element(tag, "DA", value) for tag in (STUDY_DATE, SERIES_DATE, CONTENT_DATE)}, ENHANCED_MR)
    output = anonymous(profile, pseudonymiser, file)
    assert output.StudyDate == ""
    assert not output.get("SeriesDate")
    # Type 1: one that was blank stays so under a profile that leaves dates.
    assert output.ContentDate == ("" if profile.dates != "remove" and not written.strip() else "19000101")
    for keyword in ("StudyDate", "SeriesDate", "ContentDate"):
        assert as_metadata(output, keyword) is None


def test_an_object_whose_types_are_not_known_gets_no_dummy(research: Deidentifier, explicit: Any) -> None:
    file = explicit.file({CONTENT_DATE: explicit.element(CONTENT_DATE, "DA", b"unknown")}, RETIRED)
    output = pydicom.dcmread(io.BytesIO(b"".join(research.deidentify(file).data or [])))
    assert output.get("ContentDate", "") == ""


@pytest.mark.parametrize(("written", "read"), list(TIMES.items()))
def test_a_time_of_day_is_read_likewise(profile: Profile, pseudonymiser: Pseudonymiser, explicit: Any, written: str, read: str) -> None:
    output = anonymous(profile, pseudonymiser, explicit.file({STUDY_TIME: explicit.element(STUDY_TIME, "TM", written.encode())}))
    assert output.StudyTime == ("" if profile.dates == "remove" else read)


@pytest.mark.parametrize(("written", "read"), list(MOMENTS.items()))
def test_a_date_time_is_read_likewise_and_keeps_its_precision(written: str, read: str) -> None:
    assert shifted(b"DT", written.encode(), NOT_MOVED).decode() == read
    moved = shifted(b"DT", written.encode(), datetime.timedelta(-365)).decode()
    assert len(moved) == len(read)
    assert moved[8:] == read[8:]


def test_a_date_time_that_must_be_there_is_moved_with_the_dates(research: Deidentifier, pseudonymiser: Pseudonymiser, builder: Any) -> None:
    elements = {
        MOMENT: builder.element(MOMENT, "DT", b"2021-03-17T10:15:30.5+01:00"),
        CONTENT_DATE: builder.element(CONTENT_DATE, "DA", b"2021/03/18"),
    }
    output = pydicom.dcmread(io.BytesIO(b"".join(research.deidentify(builder.file(elements, ENHANCED_MR)).data or [])))
    day = datetime.date(2021, 3, 17) + datetime.timedelta(pseudonymiser.date_offset_days("PATIENT-0815"))
    assert output.AcquisitionDateTime == f"{day:%Y%m%d}101530.5+0100"
    assert output.ContentDate == f"{day + datetime.timedelta(1):%Y%m%d}"


def test_of_many_values_each_is_read_in_its_place() -> None:
    assert shifted(b"DA", b"20210317\\2021-03-18", NOT_MOVED) == b"20210317\\20210318"
    assert shifted(b"DA", b"20210317\\unknown\\2021.03.19", NOT_MOVED) == b"20210317\\\\20210319"
    assert shifted(b"DA", b"unknown\\03/04/2021", NOT_MOVED) == b""
    assert shifted(b"DA", b"00010101\\20210317", datetime.timedelta(-400)) == b"\\20200211"
    assert as_metadata(pydicom.Dataset(), "StudyDate") is None


def test_a_birth_date_is_looked_for_as_it_is_usually_written(research: Deidentifier, explicit: Any) -> None:
    elements = {
        0x00100010: explicit.element(0x00100010, "PN", b"Zorgvliet^Quirine"),
        0x00100030: explicit.element(0x00100030, "DA", b"17/03/1961"),
        0x00081030: explicit.element(0x00081030, "LO", b"head 1961-03-17 mar1761"),
        0x00081090: explicit.element(0x00081090, "LO", b"Model 19610317"),
    }
    file = explicit.file(elements)
    output = pydicom.dcmread(io.BytesIO(b"".join(research.deidentify(file).data or [])))
    assert "1961" not in output.get("StudyDescription", "")
    assert "1961" not in output.get("ManufacturerModelName", "")
    check = CheckedDeidentifier(research, Profile.shipped("research"))
    assert 0x00100030 in check.leaks(file, [explicit.file({0x00081090: explicit.element(0x00081090, "LO", b"Model 19610317")})])


@pytest.mark.parametrize("written", [b"03/02/1961", b"3.2.61", b"03-02-61", b"610203", b"03/02/1961 12:00"])
@pytest.mark.parametrize("model_name", [b"Model 19610203", b"Model 03.02.1961", b"Model 2/3/1961"])
def test_a_birth_date_that_may_mean_two_days_is_looked_for_as_either(
    basic: Deidentifier, explicit: Any, written: bytes, model_name: bytes
) -> None:
    elements = {0x00100030: explicit.element(0x00100030, "DA", written), 0x00081090: explicit.element(0x00081090, "LO", model_name)}
    output = pydicom.dcmread(io.BytesIO(b"".join(basic.deidentify(explicit.file(elements)).data or [])))
    assert "61" not in output.get("ManufacturerModelName", "")


def test_the_readings_of_a_date() -> None:
    assert possible_digits(b"1961-02-03") == (b"19610203",)
    assert possible_digits(b"03/02/1961") == (b"19610203", b"19610302")
    assert possible_digits(b"31.12.61") == (b"19611231", b"20611231")
    assert [possible_digits(value) for value in (b"00/00/1961", b"1961", b"unknown", b"1" * 9)] == [()] * 4


def test_the_sensitive_collection_has_the_birth_date_that_the_header_means() -> None:
    header = pydicom.Dataset()
    for written, meant in (("1961-03-17", "1961-03-17"), ("19610317", "1961-03-17"), ("00000000", None), ("03/04/1961", None)):
        header[0x00100030] = pydicom.dataelem.RawDataElement(0x00100030, "DA", len(written), written.encode(), 0, False, True)
        assert as_metadata(header, "PatientBirthDate") == meant


def test_no_value_is_so_long_that_reading_it_takes_long() -> None:
    for value in (b"1" * 100_000, b"20210317" * 10_000, b"2021-03-17T" + b":" * 60_000, b"mar" * 30_000):
        assert read_date(value) is None
        assert [shifted(vr, value, NOT_MOVED) for vr in (b"DA", b"DT", b"TM")] == [b""] * 3
