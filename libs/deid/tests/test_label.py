"""Labels stay whole or go whole; a description shows where something was cut out. Neither becomes another valid name."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Outcome, Profile, Pseudonymiser
from mdm_deid.check.self_check import CheckedDeidentifier
from mdm_deid.rules.profile import SHIPPED
from mdm_deid.text.cleaner import MARK, Cleaner, fit
from mdm_deid.text.identity import identity, words
from mdm_deid.text.vocabulary import label_tags, names_nobody, structures
from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

CLEANER = Cleaner(identity(frozenset({(b"PN", "Zorgvliet^Quirine"), (b"LO", "TRAWL-0001")}), False), dates_stay=False, ages_stay=True)

KEPT = re.findall(
    r"\S+",
    """
    Lung_L SpinalCord SpinalCord_PRV05 Brainstem_PRV Parotid_R~ BrachialPlex_L GTVp GTVn GTVn1_R CTV_High PTV_Mid01 PTV_6000
    CTV_4500 PTV_5040cGy PTVp1_6996cGyx33 PTV_45p0Gyx5 PTV! PTV!_Eval ITV IGTV ICTVsb PTV1_45Gy GTVp_CT1PT1 PTV-03 zPTV_Opt
    z_Ring zRing _Lung xCouch Lungs-GTV Body-PTV Bolus_5mm Bowel_Bag Bag_Bowel Bone_Mandible Mandible_Bone Femur_Head_R
    R_Head_Femur Cavity_Oral Glnd_Submand_L Musc_Constrict CouchSurface CouchInterior PenileBulb Carina CARINA carina_PRV03
    Foley Lips Pons SpinalCord_Lum BODY External PTV^Boost PTV_boost 95%_iso 50Gy Ring Rib05_L VB_T12 LN_Neck_IIA_L
    OpticNrv_PRV03_L Rückenmark Moelle Hippocampus_L kidney_right vertebrae_L5 lung_upper_lobe_left iliopsoas_right NS_Ring
    Skin-5mm Heart+A_Pulmonary Lung_L+R Eye_L(opt)
    """,
)

GONE = re.findall(
    r"\S+",
    """
    PTV_Mueller Mueller_PTV GTV_HansMeier HansMeier_GTV Zorgvliet_tumor zorgvliet QZorgvliet_PTV PTV_Quirine PTV_q_zorgvliet
    PTV^Mueller zMueller JMueller_PTV Carina_Schmidt PTV_1234567 ROI_12345 GTV_19630412 PTV_TRAWL0001 PTVZorgvliet
    PTV_Dr_Meier Lunge_Yilmaz PTV_王小东 GTV_Иванов 12.04.1963 Rose_GTV PTV_Mark
    """,
)


@pytest.mark.parametrize("label", KEPT)
def test_labels_of_the_trade_stay(label: str) -> None:
    assert CLEANER.keeps(label)


@pytest.mark.parametrize("label", GONE)
def test_labels_that_may_name_someone_go(label: str) -> None:
    assert not CLEANER.keeps(label)


def test_every_name_of_tg_263_stays_on_both_sides_and_with_a_margin() -> None:
    assert len(structures()) > 400
    assert [
        name for name in structures() for form in (name, f"{name}_L", f"{name}_PRV05", f"z{name}", f"{name}~") if not CLEANER.keeps(form)
    ] == []


def test_a_structure_that_is_the_patients_name_goes() -> None:
    carina = Cleaner(identity(frozenset({(b"PN", "Foley^Carina")}), False), dates_stay=False, ages_stay=False)
    assert not carina.keeps("Carina") and not carina.keeps("Foley_R") and carina.keeps("Trachea")
    nobody = Cleaner(identity(frozenset({(b"PN", "Anonymous")}), False), dates_stay=False, ages_stay=False)
    assert not nobody.keeps("Trachea")


@pytest.mark.parametrize("word", sorted(words("negation")))
def test_words_of_negation_stay(word: str) -> None:
    assert CLEANER.clean(f"CT HEAD {word} CONTRAST") == f"CT HEAD {word} CONTRAST"


@pytest.mark.parametrize(
    "text, left",
    [
        ("CRANIO SEM CONTRASTE", "CRANIO SEM CONTRASTE"),
        ("CRÂNIO SEM CONTRASTE", "CRÂNIO SEM CONTRASTE"),
        ("HOVED UDEN KONTRAST", "HOVED UDEN KONTRAST"),
        ("CT abcxyz contrast", "CT [...] contrast"),
        ("T2 Mueller sag", "T2 [...] sag"),
        ("Mueller CT Meier", "[...] CT [...]"),
        ("CT Mueller, Meier Yilmaz knee", "CT [...] knee"),
        ("CT [...] knee", "CT [...] knee"),
        ("CT [...] Mueller knee", "CT [...] knee"),
        ("Mueller", ""),
        ("[...]", "[...]"),
    ],
)
def test_what_is_cut_out_of_a_description_leaves_a_mark(text: str, left: str) -> None:
    assert CLEANER.clean(text) == left
    assert CLEANER.clean(left) == left


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["PTV", "boost", "SpinalCord", "no", "contrast", "knee", "Mueller", "Zorgvliet", "Berta", "zx9"]),
        min_size=1,
        max_size=6,
    )
)
def test_text_that_lost_something_says_so(parts: list[str]) -> None:
    left = CLEANER.clean(" ".join(parts))
    if left and left != " ".join(parts):
        assert MARK in left
        assert all(word in parts for word in left.replace(MARK, " ").split())


@pytest.mark.parametrize("vr, limit", [(b"SH", 16), (b"LO", 64)])
def test_marks_do_not_make_a_value_longer_than_its_vr_allows(vr: bytes, limit: int) -> None:
    for count in range(1, 40):
        text = CLEANER.clean("knee J " + "q7x9 CT " * count)
        fitted = fit(text, vr)
        assert len(fitted) <= limit
        assert fitted == text or fitted.endswith(MARK) or fitted == ""


def test_labels_are_text_of_dicom() -> None:
    assert {dictionary_VR(tag) for tag in label_tags()} <= {"LO", "SH", "UC", "UT", "ST"}
    assert all(dictionary_description(tag) for tag in label_tags())


def structure_set(names: list[str], observed: list[str]) -> bytes:
    """Return a minimal RT Structure Set with these names of regions and of what was seen in them."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3.77"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SpecificCharacterSet, dataset.Modality = "ISO_IR 192", "RTSTRUCT"
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Zorgvliet^Quirine", "TRAWL-0001", "", ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.ReferringPhysicianName = dataset.AccessionNumber = ""
    dataset.Manufacturer = dataset.OperatorsName = dataset.SeriesNumber = dataset.InstanceNumber = ""
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "Plan Mueller", "20210318", "080000"
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    for number, (name, seen) in enumerate(zip(names, observed, strict=True), 1):
        roi, contour, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ReferencedFrameOfReferenceUID, roi.ROIName, roi.ROIGenerationAlgorithm = number, "1.2.3.3", name, "MANUAL"
        contour.ReferencedROINumber = number
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.ROIObservationLabel, observation.RTROIInterpretedType, observation.ROIInterpreter = seen[:16], "ORGAN", ""
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contour)
        dataset.RTROIObservationsSequence.append(observation)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def released(pseudonymiser: Pseudonymiser, name: str, content: bytes) -> bytes:
    profile = dataclasses.replace(Profile.shipped(name), rules=())
    result = CheckedDeidentifier(Deidentifier(profile, pseudonymiser), profile).deidentify(content)
    assert result.outcome is Outcome.RELEASED, (result.reason, result.found)
    return b"".join(result.data)


@pytest.mark.parametrize("profile", ["basic", "research", "neuro"])
def test_regions_keep_their_names_or_get_distinct_ones(pseudonymiser: Pseudonymiser, profile: str) -> None:
    names = [*KEPT, *GONE]
    output = pydicom.dcmread(io.BytesIO(released(pseudonymiser, profile, structure_set(names, names))))
    after = [item.ROIName for item in output.StructureSetROISequence]
    assert len(set(after)) == len(set(names))
    for name, new in zip(names, after, strict=True):
        assert new == name if profile != "basic" and name in KEPT else new.startswith("LABEL_") and len(new) == 16
    seen = [item.get("ROIObservationLabel", "") for item in output.RTROIObservationsSequence]
    assert all(label in (name[:16], "") or label.startswith("LABEL_") for name, label in zip(names, seen, strict=True))


def test_strict_lets_no_name_of_a_region_through(pseudonymiser: Pseudonymiser) -> None:
    output = released(pseudonymiser, "strict", structure_set(KEPT, KEPT))
    assert b"SpinalCord" not in output and b"Mueller" not in output


def test_a_pseudonym_of_a_label_is_one_patients_own(pseudonymiser: Pseudonymiser) -> None:
    one, again = pseudonymiser.label("A", "", "PTV_Mueller"), pseudonymiser.label("A", "", " PTV_Mueller ")
    assert one == again != pseudonymiser.label("B", "", "PTV_Mueller")
    assert Pseudonymiser(bytes(range(32))).label("4711", "HOSPITAL", "PTV_Mueller") == "LABEL_DOXY2ZNPUA"


@pytest.mark.parametrize("tag", sorted(label_tags()))
@pytest.mark.parametrize("profile", SHIPPED)
def test_no_label_becomes_another(explicit: Any, pseudonymiser: Pseudonymiser, profile: str, tag: int) -> None:
    vr = dictionary_VR(tag)
    elements = {
        0x00100010: explicit.element(0x00100010, "PN", b"Mueller^Karla"),
        tag: explicit.element(tag, vr, b"PTV_Mueller"),
        0x00082218: explicit.element(0x00082218, "SQ", explicit.item(explicit.element(tag, vr, b"Karla boost"))),
    }
    output = pydicom.dcmread(io.BytesIO(released(pseudonymiser, profile, explicit.file(elements))))
    inside = output.AnatomicRegionSequence[0] if "AnatomicRegionSequence" in output and output.AnatomicRegionSequence else Dataset()
    for holder in (output, inside):
        value = str(holder[tag].value) if tag in holder else ""
        assert value == "" or value.startswith("LABEL_")


@pytest.mark.parametrize("profile", ["basic", "research", "neuro"])
def test_segments_and_beams_are_told_apart(explicit: Any, pseudonymiser: Pseudonymiser, profile: str) -> None:
    """These are no rows of table E.1-1, and stay under every profile that keeps text."""
    segments = b"".join(
        explicit.item(explicit.element(0x00620005, "LO", label)) for label in (b"Mueller_PTV", b"PTV_Mueller", b"PTV", b"Liver")
    )
    elements = {
        0x00100010: explicit.element(0x00100010, "PN", b"Zorgvliet^Quirine"),
        0x00620002: explicit.element(0x00620002, "SQ", segments),
        0x300A00C2: explicit.element(0x300A00C2, "LO", b"Feld 1 Berta"),
    }
    output = pydicom.dcmread(io.BytesIO(released(pseudonymiser, profile, explicit.file(elements))))
    labels = [item.SegmentLabel for item in output.SegmentSequence]
    assert labels[2:] == ["PTV", "Liver"] and len(set(labels)) == 4
    assert output.BeamName.startswith("LABEL_")


@pytest.mark.parametrize("profile", SHIPPED)
def test_a_conformance_checker_has_no_new_complaint(pseudonymiser: Pseudonymiser, new_errors: Any, tmp_path: Path, profile: str) -> None:
    before, after = tmp_path / "before.dcm", tmp_path / "after.dcm"
    before.write_bytes(structure_set([*KEPT, *GONE], [*KEPT, *GONE]))
    after.write_bytes(released(pseudonymiser, profile, before.read_bytes()))
    assert new_errors(before, after) == []


def test_names_that_are_structures_too_are_no_words_of_descriptions() -> None:
    assert not any(names_nobody(name) for name in ("Carina", "Foley", "Lips", "Pons", "Lum"))
