"""Retrieval by DIMSE C-GET (PS3.4 annex C)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import pynetdicom
from pydicom._uid_dict import UID_dictionary
from pynetdicom.dimse_primitives import C_GET

from mdm_dicom_srm.pacs.dimse import AssociationPool, Proposal
from mdm_dicom_srm.pacs.dimse_message import Stored, identifier
from mdm_dicom_srm.pacs.dimse_retrieval import UIDS_PER_REQUEST, DimseRetrieval, batches
from mdm_dicom_srm.pacs.port import InstanceLocator, RetrievedInstance
from mdm_dicom_srm.pacs.query import IMAGE

GET = "1.2.840.10008.5.1.4.1.2.2.3"  # Study Root Query/Retrieve Information Model - GET (PS3.4 table C.6.2-1)
_CONTEXTS = 128  # per association: odd identifiers 1 to 255 (PS3.8 section 9.3.2.2)
# One presentation context per transfer syntax: the PACS accepts each as it is, so it can send what it stores unchanged.
_SYNTAXES = tuple(map(str, pynetdicom.ALL_TRANSFER_SYNTAXES))
# What a last attempt proposes: the retired and private ones too.
_ALL_SYNTAXES = tuple(dict.fromkeys((*_SYNTAXES, *(uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"))))
_CLASSES_PER_ASSOCIATION = (_CONTEXTS - 1) // len(_SYNTAXES)


_STORAGE_CLASSES = tuple(str(context.abstract_syntax) for context in pynetdicom.AllStoragePresentationContexts)
# The most frequent first: not all are tried where the class is not known.
_LIKELY_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.80",
)
_TURNS_ALONE = 2


class CGet(DimseRetrieval):
    """A PACS that sends over the association that asks. It should return SOP Class UID in C-FIND: of others every class is tried."""

    def __init__(self, pool: AssociationPool, *, name: str = "") -> None:
        super().__init__(pool, name=name)
        self._seen: dict[str, None] = {}

    def offers(self) -> None:
        """Return when the PACS accepts an association for C-GET.

        Raises:
            Unavailable: it does not.
        """
        self._pool.offers(GET)

    def _batches(self, classes: Mapping[str, str]) -> Iterator[list[str]]:
        by_class: dict[str, list[str]] = defaultdict(list)
        for sop_uid, sop_class in classes.items():
            by_class[sop_class].append(sop_uid)
        yield from batches(by_class.pop("", []), UIDS_PER_REQUEST)
        for group in batches(sorted(by_class), _CLASSES_PER_ASSOCIATION):
            yield from batches([sop_uid for sop_class in group for sop_uid in by_class[sop_class]], UIDS_PER_REQUEST)

    def _transfer(self, locator: InstanceLocator, classes: Mapping[str, str], alone: bool) -> Iterator[RetrievedInstance]:
        left = dict(classes)
        for contexts in self._turns(sorted(set(classes.values())), alone):
            keys = {"StudyInstanceUID": locator.study_uid, "SeriesInstanceUID": locator.series_uid, "SOPInstanceUID": list(left)}
            with closing(self._pool.exchange(Proposal(GET, contexts), C_GET(), identifier(IMAGE, keys))) as answers:
                for item in answers:
                    if isinstance(item, Stored):
                        left.pop(item.sop_uid, None)
                        self._seen[item.sop_class] = None
                        yield RetrievedInstance(item.sop_uid, item.part10, self._name)
            if not left:
                return

    def _turns(self, classes: list[str], alone: bool) -> Iterator[tuple[tuple[str, str], ...]]:
        """Yield the contexts to propose, turn by turn: of known classes one turn, of unknown ones those that came before first."""
        if "" not in classes:
            yield _contexts(classes, _ALL_SYNTAXES if alone else _SYNTAXES)
            return
        turns = [_contexts(group, _SYNTAXES) for group in batches(list(self._seen), _CLASSES_PER_ASSOCIATION)]
        others = [(sop_class, syntax) for syntax in _LIKELY_SYNTAXES for sop_class in _STORAGE_CLASSES if sop_class not in self._seen]
        turns += [tuple(others[start : start + _CONTEXTS - 1]) for start in range(0, len(others), _CONTEXTS - 1)]
        yield from turns[:_TURNS_ALONE] if alone else turns


def _contexts(classes: Sequence[str], syntaxes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((sop_class, syntax) for sop_class in classes for syntax in syntaxes)
