"""What the curators' desk has others do: rules that are drawn hold for all images, and text is looked for."""

import functools
from dataclasses import dataclass

from mdm_deid.pixels.text_worker import TextFinder, is_installed
from mdm_deid.rules.rule import CLEAN_FACES
from mdm_service.settings import ConfigurationError

from mdm_dicom_srm.composition.database import SiteDatabase
from mdm_dicom_srm.composition.deidentification import Deidentification
from mdm_dicom_srm.config import Settings, TextSettings
from mdm_dicom_srm.oversight.composition import DeskParts
from mdm_dicom_srm.oversight.rules.desk import Effects
from mdm_dicom_srm.oversight.rules.drawn_rules import DrawnRules
from mdm_dicom_srm.oversight.rules.face import FaceJudge, FaceMasks
from mdm_dicom_srm.oversight.rules.kind import KindNames
from mdm_dicom_srm.oversight.rules.picture import Instances
from mdm_dicom_srm.oversight.rules.site_judge import SiteJudge
from mdm_dicom_srm.oversight.rules.text import TextJudge, TextPolicy, TextRecords, find_lines
from mdm_dicom_srm.oversight.store.face import FaceStore
from mdm_dicom_srm.oversight.store.found_text import FoundTextStore
from mdm_dicom_srm.oversight.store.pixel_rule import PixelRuleStore
from mdm_dicom_srm.pacs.port import Pacs
from mdm_dicom_srm.register.rules.assessor import PooledJudge
from mdm_dicom_srm.register.rules.port import Judge
from mdm_dicom_srm.stage.composition import Stage


@dataclass(frozen=True)
class Desk:
    """The rules that curators drew, and who looks for text."""

    database: SiteDatabase
    deid: Deidentification
    policy: TextPolicy
    pixel_rules: PixelRuleStore
    texts: FoundTextStore
    drawn: DrawnRules
    finder: TextFinder
    masks: FaceMasks | None

    @property
    def generation(self) -> str:
        """A digest of all rules under which images leave now."""
        return self.drawn.revision(self.deid.generation)

    def judge(self, staging: Stage) -> Judge:
        """Return who decides about instances."""
        decisions = self.database.decisions
        pooled = PooledJudge(staging.sealer.judge, self.deid.generation, decisions.released)
        records = TextRecords(self.texts, decisions.released, self.deid.profile.rules)
        judge: Judge = SiteJudge(pooled, self.drawn)
        if self.masks is not None:
            judge = FaceJudge(judge, self.masks)
        return TextJudge(judge, self.policy, self.finder.find, records)

    def parts(self, pacs: Pacs, staging: Stage) -> DeskParts:
        """Return what curators are served by."""
        find = functools.partial(find_lines, self.finder.find)
        effects = Effects(self.drawn.refresh, staging.forget)
        return DeskParts(KindNames(self.database.secret), Instances(pacs, staging.sealer.perform), self.pixel_rules, find, effects)


def open_desk(settings: Settings, database: SiteDatabase, deid: Deidentification) -> Desk:
    """Return the desk of a site.

    Raises:
        ConfigurationError: text is to be looked for, and no detector is installed.
    """
    text = settings.deid.text
    rules, texts = PixelRuleStore(database.pool, database.sealer), FoundTextStore(database.pool, database.names)
    finder = TextFinder(text.processes, text.seconds, text.memory_bytes)
    masks = None
    if CLEAN_FACES in deid.profile.options:
        masks = FaceMasks(FaceStore(database.pool, database.sealer, database.names), settings.deid.faces.quiet_seconds)
    drawn = DrawnRules(rules, texts.rule, masks=masks.rules if masks else lambda _part10: ())
    return Desk(database, deid, text_policy(text), rules, texts, drawn, finder, masks)


def text_policy(settings: TextSettings) -> TextPolicy:
    """Return what follows from text in pixels.

    Raises:
        ConfigurationError: it is to be looked for, and no detector is installed.
    """
    if settings.looks_unasked and not is_installed():
        raise ConfigurationError("deid.text: no detector is installed: pip install 'mdm-deid[text]'")
    return TextPolicy(settings.policy, frozenset(settings.modalities))
