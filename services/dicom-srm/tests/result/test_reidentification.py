"""A result translated back: every reference, the patient and the study, nothing else; what leads nowhere is refused."""

import pytest
from mdm_dicom_srm.result.rules.reidentification import Originals, referenced, reidentify, uids_of
from mdm_wire.errors import FailedPrecondition, Invalid
from pydicom import Dataset
from pydicom.sequence import Sequence

CLASS = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, IMAGE, FRAME = "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"


def pseudonym(uid):
    return f"2.25.9{uid.replace('.', '')}"


def dataset(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def header():
    return dataset(
        SOPInstanceUID=IMAGE,
        SeriesInstanceUID=SERIES,
        StudyInstanceUID=STUDY,
        FrameOfReferenceUID=FRAME,
        SOPClassUID=CLASS,
        PatientName="Doe^Jane",
        PatientID="4711",
        StudyDate="20250304",
        SpecificCharacterSet="ISO_IR 100",
    )


@pytest.fixture
def originals(header):
    return Originals(uids_of([header], pseudonym), header)


@pytest.fixture
def result():
    image = dataset(ReferencedSOPClassUID=CLASS, ReferencedSOPInstanceUID=pseudonym(IMAGE))
    series = dataset(SeriesInstanceUID=pseudonym(SERIES), ReferencedInstanceSequence=Sequence([image]))
    return dataset(
        SOPInstanceUID="2.25.1",
        SeriesInstanceUID="2.25.2",
        StudyInstanceUID=pseudonym(STUDY),
        FrameOfReferenceUID=pseudonym(FRAME),
        PatientName="PAT1",
        PatientID="PAT1",
        StudyDate="20240101",
        AccessionNumber="",
        PatientIdentityRemoved="YES",
        TrackingUID="2.25.77",
        ReferencedSeriesSequence=Sequence([series]),
    )


def test_references_patient_and_study_become_the_originals_and_its_own_names_stay(result, originals):
    assert reidentify(result, originals) == 4
    series = result.ReferencedSeriesSequence[0]
    assert (result.StudyInstanceUID, result.FrameOfReferenceUID, series.SeriesInstanceUID) == (STUDY, FRAME, SERIES)
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == IMAGE
    assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == CLASS
    assert (str(result.PatientName), result.PatientID, result.StudyDate) == ("Doe^Jane", "4711", "20250304")
    assert (result.SOPInstanceUID, result.SeriesInstanceUID, result.TrackingUID) == ("2.25.1", "2.25.2", "2.25.77")
    assert "PatientIdentityRemoved" not in result


@pytest.mark.parametrize("place", ["study", "image", "frame"])
def test_what_leads_to_nothing_of_the_site_is_refused_and_nothing_is_changed(result, originals, place):
    target = {
        "study": (result, "StudyInstanceUID"),
        "frame": (result, "FrameOfReferenceUID"),
        "image": (result.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0], "ReferencedSOPInstanceUID"),
    }[place]
    setattr(*target, "2.25.404")
    before = result.to_json()
    with pytest.raises(FailedPrecondition, match="1 UIDs that lead to nothing"):
        reidentify(result, originals)
    assert result.to_json() == before


def test_what_refers_to_nothing_or_is_translated_already_is_refused(result, originals):
    bare = dataset(SOPInstanceUID="2.25.1", StudyInstanceUID=pseudonym(STUDY))
    with pytest.raises(Invalid, match="no image"):
        reidentify(bare, originals)
    reidentify(result, originals)
    with pytest.raises(FailedPrecondition, match="already"):
        reidentify(result, originals)


def test_a_file_does_not_refer_to_itself(result):
    result.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(dataset(ReferencedSOPInstanceUID="2.25.1"))
    assert referenced(result) == {pseudonym(IMAGE)}
