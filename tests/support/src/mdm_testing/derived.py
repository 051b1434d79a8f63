"""What is drawn over images: segmentations, RT structures and presentation states of a CT series made for tests."""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from mdm_testing.image import Image, make_image

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"


def ct_series(folder: Path, count: int) -> list[Image]:
    """Write a CT series that can be scrolled: each slice has a bright square in another place."""
    first: Image | None = None
    made = []
    frame_of_reference = generate_uid()
    for number in range(1, count + 1):
        image = make_image(folder / f"ct{number}.dcm", "CT_small.dcm", of=first, number=number)
        first = first or image
        dataset = image.read()
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.ImagePositionPatient = [-158.0, -179.0, -75.7 + 5 * number]
        dataset.SliceLocation = -75.7 + 5 * number
        pixels = dataset.pixel_array.copy()
        top = 5 * number % 110 + 4
        pixels[top - 4 : top + 4, 10:40] = 2500
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(image.path)
        made.append(image)
    return made


def segmentation(images: Sequence[Image], path: Path) -> Path:
    """Write a segmentation of a CT series: a disc in each slice."""
    sources = [image.read() for image in images]
    rows, columns = np.mgrid[: sources[0].Rows, : sources[0].Columns]
    mask = np.repeat(((rows - 64) ** 2 + (columns - 64) ** 2 < 900)[None], len(sources), 0).astype(np.uint8)
    code = CodedConcept("10200004", "SCT", "Liver")
    described = hd.seg.SegmentDescription(
        1, "Liver", code, code, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence("disc", code, "1"),
    )  # fmt: skip
    made: Dataset = hd.seg.Segmentation(
        sources, mask, "BINARY", [described], generate_uid(), 99, generate_uid(), 1, "MDM", "test", "1", "1"
    )
    made.save_as(path)
    return path


def presentation_state(images: Sequence[Image], path: Path) -> Path:
    """Write a presentation state of a CT series: a narrow window, and a circle on each slice."""
    sources = [image.read() for image in images]
    layer = hd.pr.GraphicLayer("RING", 1)
    ring = hd.pr.GraphicObject(hd.pr.GraphicTypeValues.CIRCLE, np.array([[64.0, 64.0], [64.0, 94.0]]), hd.pr.AnnotationUnitsValues.PIXEL)
    annotation = hd.pr.GraphicAnnotation(sources, layer, graphic_objects=[ring])
    made: Dataset = hd.pr.GrayscaleSoftcopyPresentationState(
        sources, generate_uid(), 98, generate_uid(), 1, "MDM", "test", "1", "1", "NARROW",
        graphic_annotations=[annotation], graphic_layers=[layer],
        voi_lut_transformations=[hd.pr.SoftcopyVOILUTTransformation(window_center=40, window_width=80)],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip
    made.save_as(path)
    return path


def rt_structure(images: Sequence[Image], path: Path) -> Path:
    """Write an RT structure set of a CT series: a circle in each slice."""
    sources = [image.read() for image in images]
    first = sources[0]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"):
        setattr(made, keyword, first.get(keyword, ""))
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = RTStructureSetStorage, generate_uid(), generate_uid()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    made.Modality, made.Manufacturer, made.SeriesNumber, made.InstanceNumber = "RTSTRUCT", "MDM", 97, 1
    made.AccessionNumber = made.ReferringPhysicianName = made.OperatorsName = ""
    made.StructureSetLabel, made.StructureSetDate, made.StructureSetTime = "RINGS", "20040119", "072730"
    made.ApprovalStatus = "UNAPPROVED"
    made.FrameOfReferenceUID = first.FrameOfReferenceUID
    made.ReferencedFrameOfReferenceSequence = DicomSequence([_references(sources)])
    made.StructureSetROISequence = DicomSequence([_item(
        ROINumber=1, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID, ROIName="Ring", ROIGenerationAlgorithm="AUTOMATIC"
    )])  # fmt: skip
    made.RTROIObservationsSequence = DicomSequence([_item(
        ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="ORGAN", ROIInterpreter=""
    )])  # fmt: skip
    contours = [_contour(source) for source in sources]
    made.ROIContourSequence = DicomSequence(
        [_item(ROIDisplayColor=[255, 64, 0], ContourSequence=DicomSequence(contours), ReferencedROINumber=1)]
    )
    made.save_as(path, enforce_file_format=True)
    return path


def _item(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _image_reference(source: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def _references(sources: Sequence[Dataset]) -> Dataset:
    images = DicomSequence([_image_reference(source) for source in sources])
    series = _item(SeriesInstanceUID=sources[0].SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=_DETACHED_STUDY,
        ReferencedSOPInstanceUID=sources[0].StudyInstanceUID,
        RTReferencedSeriesSequence=DicomSequence([series]),
    )
    return _item(FrameOfReferenceUID=sources[0].FrameOfReferenceUID, RTReferencedStudySequence=DicomSequence([study]))


def _contour(source: Dataset) -> Dataset:
    """Return a circle of 32 points around the middle of a slice, in millimetres."""
    left, top, height = (float(value) for value in source.ImagePositionPatient)
    rows, columns = (float(value) for value in source.PixelSpacing)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    points = np.stack([left + columns * (64 + 30 * np.cos(angles)), top + rows * (64 + 30 * np.sin(angles)), np.full(32, height)], axis=1)
    return _item(
        ContourImageSequence=DicomSequence([_image_reference(source)]),
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=32,
        ContourData=[round(float(value), 3) for value in points.ravel()],
    )
