"""Sizes: known from registration on, corrected when a file is staged."""

import pytest
from mdm_dicom_srm.register.worker import SizeCorrection
from mdm_wire.errors import Unavailable

from .conftest import Site, header, part10

pytestmark = pytest.mark.integration


def test_a_file_has_the_size_that_the_pacs_holds_until_it_is_staged(site: Site) -> None:
    (guid,) = site.enqueue(header())
    site.run()
    assert site.catalog.files[guid].size == len(part10())
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
    correction.note(guid, len(part10()))
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
