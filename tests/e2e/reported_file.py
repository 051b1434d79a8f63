"""Small synthetic files of kinds with which users of other systems reported trouble; every identifying value is invented."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mdm_testing.image import example
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.1"
TOMOGRAPHY_OF_VESSELS = "1.2.840.10008.5.1.4.1.1.14.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
MR_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"
ENDOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.1"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
REAL_WORLD_VALUES = "1.2.840.10008.5.1.4.1.1.67"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PATIENT, PATIENT_ID = "Zorgvliet^Quirine", "TRAWL-0001"
OWNER = b"Wendeline Ostrogard"
REGIONS = ("SpinalCord", "SpinalCord_PRV05", "PTV_boost", "PTV", "zPTV_Opt", "GTVp", "Cochlea_L", "Glnd_Submand_L", "Zorgvliet_tumor")
_numbers = count(1)


def base(sop: str = CT, modality: str = "CT", syntax: UID = ExplicitVRLittleEndian, patient_id: str = PATIENT_ID) -> FileDataset:
    """Return a slice of 16 by 16 pixels of a study of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = sop, generate_uid(), syntax
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20210317"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101530"
    dataset.Modality, dataset.Manufacturer = modality, "EXAMPLE"
    dataset.AccessionNumber, dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "ACC9917", "77", "3", str(next(_numbers))
    dataset.InstitutionName, dataset.ReferringPhysicianName = "Klinik Kastanienhof", "Quackenbush^Odilia"
    dataset.StudyDescription, dataset.SeriesDescription = "CT HEAD", "AXIAL"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, patient_id, "19610203"
    dataset.PatientSex, dataset.PatientAge = "F", "060Y"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = ["0", "0", "1"], ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.PositionReferenceIndicator = ["1", "1"], "1", ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = bytes(range(256)) * 2
    return dataset


_LAYOUT = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def without_pixels(dataset: FileDataset) -> FileDataset:
    """Remove pixels and what describes them."""
    for keyword in ("PixelData", *_LAYOUT):
        delattr(dataset, keyword)
    return dataset


def raw(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Set bytes that are not of their VR's form."""
    value += b" " * (len(value) % 2)
    dataset[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a coded entry."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def colours_not_shared() -> FileDataset:
    """Uncompressed YBR_FULL_422 with three bytes a pixel, as a decompressor leaves it that does not correct the label."""
    dataset = base(ENDOSCOPY, "ES")
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "YBR_FULL_422"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = bytes(1 + number % 254 for number in range(16 * 16 * 3))
    return dataset


def called_like_a_modality(sop: str, modality: str) -> FileDataset:
    """An operator, and a station, called like the modality."""
    dataset = base(sop, modality)
    dataset.OperatorsName, dataset.StationName, dataset.ManufacturerModelName = modality, modality, "Zorgvliet 5"
    return dataset


def spectroscopy() -> FileDataset:
    """MR spectroscopy: an image of the PACS without pixel data."""
    dataset = without_pixels(base(MR_SPECTROSCOPY, "MR"))
    dataset.Rows = dataset.Columns = 1
    dataset.DataPointRows, dataset.DataPointColumns = 1, 4
    dataset.SpectroscopyData = b"\0\0\x80\x3f" * 8
    return dataset


def face_removed() -> FileDataset:
    """A head MR with the record of the program that removed the face."""
    dataset = base(MR, "MR")
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", ["mri_reface 0.3.4"]
    codes = [coded("113102", "DCM", "Clean Recognizable Visual Features Option"), coded("replace", "99REFACE", "Replace face")]
    dataset.DeidentificationMethodCodeSequence = Sequence(codes)
    return dataset


def structure_set() -> FileDataset:
    """Regions with names of AAPM TG-263, of a clinic, and with a person's name."""
    dataset = without_pixels(base(STRUCTURE_SET, "RTSTRUCT"))
    for keyword in ["ImageType", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"]:
        delattr(dataset, keyword)
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "RTplan", "20210318", "080000"
    regions, contours, observations = [], [], []
    for number, name in enumerate(REGIONS, 1):
        region, contour, seen = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ReferencedFrameOfReferenceUID = str(number), dataset.FrameOfReferenceUID
        region.ROIName, region.ROIGenerationAlgorithm = name, "MANUAL"
        contour.ROIDisplayColor, contour.ReferencedROINumber = ["255", "0", "0"], str(number)
        seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType, seen.ROIInterpreter = (
            str(number),
            str(number),
            "ORGAN",
            "",
        )
        regions.append(region)
        contours.append(contour)
        observations.append(seen)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(regions), Sequence(contours)
    dataset.RTROIObservationsSequence = Sequence(observations)
    return dataset


def misspelt_character_set() -> FileDataset:
    """A name outside ASCII that a description repeats; `write` misspells the character set."""
    dataset = base()
    raw(dataset, 0x00100010, "PN", "Müßigbrodt^Jörg".encode("latin-1"))
    raw(dataset, 0x0008103E, "LO", "HEAD Müßigbrodt".encode("latin-1"))
    return dataset


def exif_behind_fill_bytes() -> FileDataset:
    """A JPEG frame whose Exif data and comment follow fill bytes (ITU T.81 B.1.1.2)."""
    source = example("SC_rgb_jpeg_gdcm.dcm")
    jpeg = next(generate_frames(source.PixelData, number_of_frames=1))
    segments = b"".join(
        b"\xff\xff\xff" + marker + (len(text) + 2).to_bytes(2, "big") + text
        for marker, text in ((b"\xe1", b"Exif\0\0 Owner: " + OWNER), (b"\xfe", b"scanned by " + OWNER))
    )
    dataset = base(ENDOSCOPY, "ES", source.file_meta.TransferSyntaxUID)
    for keyword in _LAYOUT:
        setattr(dataset, keyword, source.get(keyword))
    dataset.PlanarConfiguration, dataset.LossyImageCompression = source.PlanarConfiguration, "01"
    dataset.PixelData = encapsulate([jpeg[:2] + segments + jpeg[2:]])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def study_date(value: bytes) -> FileDataset:
    """A study date in another writing than DICOM's."""
    dataset = base(MR, "MR", patient_id="DATED")
    raw(dataset, 0x00080020, "DA", value)
    return dataset


def slide(container: str, scanner: str) -> FileDataset:
    """A glass slide, known by its container's identifier."""
    dataset = base(WHOLE_SLIDE, "SM")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.ContainerIdentifier, dataset.DeviceSerialNumber, dataset.StudyID = container, scanner, f"S21-{scanner[-1]}"
    return dataset


def build() -> Iterator[tuple[str, FileDataset]]:
    """Yield each file with its name."""
    yield "colours", colours_not_shared()
    for modality, sop in (
        ("SM", WHOLE_SLIDE),
        ("ES", ENDOSCOPY),
        ("RG", RADIOGRAPH),
        ("IVOCT", TOMOGRAPHY_OF_VESSELS),
    ):
        yield f"modality-{modality}", called_like_a_modality(sop, modality)
    yield "modality-RWV", without_pixels(called_like_a_modality(REAL_WORLD_VALUES, "RWV"))
    yield "spectroscopy", spectroscopy()
    yield "face", face_removed()
    yield "regions", structure_set()
    yield "charset", misspelt_character_set()
    yield "exif", exif_behind_fill_bytes()
    for name, value in (("iso", b"2021-03-17"), ("acr", b"2021.03.17"), ("zeros", b"00000000"), ("ambiguous", b"03/04/2021")):
        yield f"date-{name}", study_date(value)
    yield "slide-1", slide("S21-1_A_1", "scanner-1")
    yield "slide-2", slide("S21-1_B_4", "scanner-2")


def write(directory: Path) -> dict[str, Path]:
    """Write all files into a directory and return them by name."""
    modes = config.settings.reading_validation_mode, config.settings.writing_validation_mode
    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
    try:
        found = {}
        for name, dataset in build():
            found[name] = directory / f"{name}.dcm"
            dataset.save_as(found[name], enforce_file_format=True)
        found["charset"].write_bytes(found["charset"].read_bytes().replace(b"ISO_IR 100", b"ISO-IR 100"))
        return found
    finally:
        config.settings.reading_validation_mode, config.settings.writing_validation_mode = modes
