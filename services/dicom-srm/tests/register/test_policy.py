"""The site policy: what is left out is counted, never judged, and removed where the grid has it."""

from datetime import date
from pathlib import Path

import pytest
from mdm_dicom_srm.config import PolicySettings, RegistrationSettings
from mdm_dicom_srm.register.composition import site_policy
from mdm_dicom_srm.register.rules.facts import Facts
from mdm_dicom_srm.register.rules.policy import PolicyRule, SitePolicy
from mdm_dicom_srm.register.rules.scan import Counts
from mdm_service.settings import ConfigurationError
from pydantic import ValidationError

from .conftest import Site, guid_of, header

NO_CT = SitePolicy([PolicyRule("no-ct", False, modalities=("CT",))])
FACTS = Facts("CT", "1.2.840.10008.5.1.4.1.1.2", "ct-7", "20200607", "Head PHANTOM scan", "axial")


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (PolicyRule("r", False), True),
        (PolicyRule("r", False, modalities=("MR", "CT")), True),
        (PolicyRule("r", False, modalities=("MR",)), False),
        (PolicyRule("r", False, sop_classes=("1.2.840.10008.5.1.4.1.1.2",)), True),
        (PolicyRule("r", False, sop_classes=("1.2.840.10008.5.1.4.1.1.2.1",)), False),
        (PolicyRule("r", False, stations=("CT-?",)), True),
        (PolicyRule("r", False, stations=("CT-??",)), False),
        (PolicyRule("r", False, calling_ae_titles=("TEST",)), True),
        (PolicyRule("r", False, calling_ae_titles=("OTHER",)), False),
        (PolicyRule("r", False, study_descriptions=("*phantom*",)), True),
        (PolicyRule("r", False, series_descriptions=("coronal",)), False),
        (PolicyRule("r", False, since=date(2020, 6, 7), until=date(2020, 6, 7)), True),
        (PolicyRule("r", False, since=date(2020, 6, 8)), False),
        (PolicyRule("r", False, until=date(2020, 6, 6)), False),
        (PolicyRule("r", False, modalities=("CT",), stations=("other",)), False),
    ],
)
def test_a_rule_matches_what_meets_all_its_conditions(rule: PolicyRule, matches: bool) -> None:
    assert SitePolicy([rule]).leaves_out(FACTS, "TEST") == ("r" if matches else "")


def test_the_first_rule_that_matches_decides_and_then_the_default() -> None:
    rules = [PolicyRule("but", True, stations=("ct-7",)), PolicyRule("no-ct", False, modalities=("CT",))]
    assert SitePolicy(rules).leaves_out(FACTS) == ""
    assert SitePolicy(rules[1:]).leaves_out(FACTS) == "no-ct"
    assert SitePolicy(register_others=False).leaves_out(FACTS) == "default"
    assert SitePolicy(rules).fingerprint != SitePolicy(rules[1:]).fingerprint


def test_a_study_without_a_date_is_in_no_range() -> None:
    assert SitePolicy([PolicyRule("r", False, since=date(1900, 1, 1))]).leaves_out(Facts(study_date="unknown")) == ""


@pytest.mark.parametrize(
    "rules",
    [
        [{"name": "Has Blank", "action": "leave-out"}],
        [{"name": "a", "action": "drop"}],
        [{"name": "a"}],
        [{"name": "default", "action": "register"}],
        [{"name": "a", "action": "register"}, {"name": "a", "action": "leave-out"}],
        [{"name": "a", "action": "leave-out", "modality": ["CT"]}],
        [{"name": "a", "action": "leave-out", "modalities": [""]}],
        [{"name": "a", "action": "leave-out", "since": "2020-01-02", "until": "2020-01-01"}],
        [{"name": "a", "action": "leave-out", "since": "yesterday"}],
    ],
)
def test_a_malformed_rule_is_refused(rules: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        PolicySettings.model_validate({"rules": rules})


def test_a_policy_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('register_others = false\n[[rules]]\nname = "mr"\naction = "register"\nmodalities = ["MR"]\n')
    policy = site_policy(RegistrationSettings(policy_file=path))
    assert policy.leaves_out(Facts("MR")) == "" and policy.leaves_out(FACTS) == "default"
    path.write_text("rules = 7")
    with pytest.raises(ConfigurationError, match="policy_file"):
        site_policy(RegistrationSettings(policy_file=path))
    with pytest.raises(ValidationError):
        RegistrationSettings(policy_file=path, policy=PolicySettings(register_others=False))


@pytest.mark.integration
def test_what_is_left_out_is_counted_by_rule_and_not_judged(site: Site) -> None:
    site.policy = NO_CT
    site.enqueue(header())
    assert site.run() == 0 and site.judge.judged == 0
    assert list(site.states().values()) == [("FILTERED", "SITE_POLICY")]
    assert site.registrations.rules() == {"no-ct": 1}
    assert [item.rule for item in site.service().page(None, None, 10).registrations] == ["no-ct"]
    assert "SECRET77" not in site.dump()
    assert site.scan() == Counts(listed=1, left_out=1) and site.pacs.retrieved == 0


@pytest.mark.integration
def test_a_rule_looks_at_who_sent_an_instance(site: Site) -> None:
    site.policy = SitePolicy([PolicyRule("no-test", False, calling_ae_titles=("TEST*",))])
    site.service().enqueue([header(number=1)], calling_ae="TEST1")
    site.service().enqueue([header(number=2)], calling_ae="ORTHANC")
    assert {guid: state for guid, (state, _) in site.states().items()} == {guid_of(): "FILTERED", guid_of(number=2): "RECEIVED"}


@pytest.mark.integration
def test_what_a_changed_policy_leaves_out_is_removed_and_what_it_lets_in_is_registered(site: Site) -> None:
    site.pacs.take(header())
    site.scan()
    assert guid_of() in site.catalog.files
    site.policy = NO_CT
    assert site.scan() == Counts(listed=1, left_out=1)
    assert site.states() == {guid_of(): ("REMOVED", "SITE_POLICY"), guid_of(1): ("FILTERED", "SITE_POLICY")}
    assert not site.catalog.files and site.keys.dead == {guid_of()} and site.registrations.rules() == {"no-ct": 1}
    retrieved = site.pacs.retrieved
    assert site.scan() == Counts(listed=1, left_out=1) and site.pacs.retrieved == retrieved
    site.policy = SitePolicy([PolicyRule("still-no-ct", False, modalities=("CT",))])
    assert site.scan() == Counts(listed=1, left_out=1)
    assert site.registrations.rules() == {"still-no-ct": 1}
    site.policy = SitePolicy()
    assert site.scan() == Counts(listed=1, new=1)
    assert list(site.catalog.files) == [guid_of(1)] and site.registrations.rules() == {}
    assert site.scan() == Counts(listed=1, equal=1)


@pytest.mark.integration
def test_what_changes_so_that_the_policy_leaves_it_out_is_removed_when_it_is_sent(site: Site) -> None:
    site.policy = SitePolicy([PolicyRule("no-phantoms", False, study_descriptions=("*PHANTOM*",))])
    site.enqueue(header())
    site.run()
    site.enqueue(header(StudyDescription="Phantom"))
    site.run()
    assert site.states() == {guid_of(): ("REMOVED", "SITE_POLICY"), guid_of(1): ("FILTERED", "SITE_POLICY")}
    site.enqueue(header(StudyDescription="Head"))
    site.run()
    assert site.catalog.files.keys() == {guid_of(1)}


@pytest.mark.integration
def test_a_policy_that_changes_while_a_worker_holds_an_instance_wins(site: Site) -> None:
    site.enqueue(header())
    batch = site.claim(10, 60)
    assert batch is not None
    site.policy = NO_CT
    site.enqueue(header(StudyDescription="Corrected"))
    site.pipeline().run(batch)
    site.run()
    assert not site.catalog.files and not site.keys.keys
    assert site.states() == {guid_of(): ("REMOVED", "SITE_POLICY"), guid_of(1): ("FILTERED", "SITE_POLICY")}
