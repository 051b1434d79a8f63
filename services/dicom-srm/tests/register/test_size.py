"""Sizes: those that users get, known from registration on; corrected when a file is staged that has another."""

import pytest
from mdm_deid import Deidentifier, Profile, Pseudonymiser
from mdm_dicom_srm.register.worker import SizeCorrection
from mdm_wire.errors import Unavailable

from .conftest import SECRET, Site, header, part10

pytestmark = pytest.mark.integration


def released_size() -> int:
    """Bytes of the file that users get of `part10`."""
    return sum(map(len, Deidentifier(Profile.shipped("basic"), Pseudonymiser(SECRET)).deidentify(part10()).data or []))


def test_a_file_has_the_size_that_users_get_from_publication_on(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    assert site.catalog.files[guid].size == released_size() != len(part10())
    assert site.registrations.sizes_of([guid]) == {guid: released_size()}


def test_a_size_that_differs_all_the_same_is_corrected(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    correction = SizeCorrection(site.registrations, site.catalog)
    correction.note(guid, 123)
    correction.flush()
    assert site.catalog.files[guid].size == 123
    assert site.registrations.sizes_of([guid]) == {guid: 123}


def test_a_size_that_is_right_already_costs_no_call(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    calls = site.catalog.calls
    correction = SizeCorrection(site.registrations, site.catalog)
    correction.note(guid, released_size())
    correction.flush()
    assert site.catalog.calls == calls


def test_a_catalog_that_is_away_is_told_later(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    correction = SizeCorrection(site.registrations, site.catalog, moment=0.01, retry=0.01)
    site.catalog.trouble = Unavailable("AWAY", "away")
    correction.note(guid, 123)
    with pytest.raises(Unavailable):
        correction.flush()
    site.catalog.trouble = None
    correction.start()
    correction.stop()
    assert site.catalog.files[guid].size == 123
