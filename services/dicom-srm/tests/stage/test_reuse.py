"""An image that is sealed where another was before: nothing of the other shows, however much is remembered between them."""

import io
from uuid import uuid4

import pydicom
import pytest
from mdm_crypto import stream
from mdm_deid import PatientIdRule, Profile
from mdm_deid.pixels.rule import PixelRules
from mdm_dicom_srm.judgement import make_deidentifier
from mdm_dicom_srm.shared_memory import BlockPool
from mdm_dicom_srm.stage.sealing.threads import ThreadSealer
from pydicom.data import get_testdata_file

KEY = bytes(range(32))


def images() -> list[bytes]:
    """Return images of one series and two patients in turn, whose headers differ here and there."""
    template = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    found = []
    for number in range(24):
        template.PatientID, template.PatientName = f"ID-{number % 2}", f"DOE^{'JOHN' if number % 2 else 'JANE'}"
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        template.InstanceNumber, template.SliceLocation = number, number * 1.5
        template.StudyDescription = f"follow-up of {template.PatientName}" if number % 3 else "follow-up"
        file = io.BytesIO()
        template.save_as(file, enforce_file_format=True)
        found.append(file.getvalue())
    return found


@pytest.mark.parametrize("profile", ["basic", "research"])
def test_what_is_sealed_in_memory_that_is_used_again_is_what_is_sealed_elsewhere(profile, tmp_path):
    def sealer() -> ThreadSealer:
        return ThreadSealer(lambda: make_deidentifier(Profile.shipped(profile), b"s" * 32, PixelRules(), True, PatientIdRule()))

    def sealed(content, number, place, by) -> bytes:
        guid = uuid4()
        result = by.seal(content, None, guid, KEY, tmp_path / f"{place}-{number}", "CN=alice").result(60)
        assert result.state is None, result
        return stream.decrypt(KEY, guid.bytes, (tmp_path / f"{place}-{number}").read_bytes())

    again, fresh, pool = sealer(), sealer(), BlockPool(1_000_000, spare=1)
    for number, content in enumerate(images()):
        block = pool.take()
        block.view[: len(content)] = content
        piece = block.piece(0, len(content))
        block.release()
        assert sealed(piece, number, "again", again) == sealed(content, number, "fresh", fresh)
    again.close()
    fresh.close()
