"""A reconciliation: compare, report, and repair within limits."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from mdm_dicom_srm.reconcile.rules.comparison import WITHOUT, Comparison
from mdm_dicom_srm.reconcile.rules.model import Difference, Grid, Kind, Registry, Spool
from mdm_dicom_srm.register.rules.description import IMAGES

_log = logging.getLogger(__name__)
_EXAMPLES = 5
_BATCH = 200
_FEW = 10
#: Why differences are not repaired.
NOT_ASKED, TOO_MANY, BY_HAND, CHANGED = "NOT_ASKED", "TOO_MANY", "BY_HAND", "CHANGED"
#: What only a person can decide about: a list that somebody made, a keystore that lost shares (`mdm key repair`).
_BY_HAND = frozenset({Kind.ACL_DIFFERS, Kind.KEY_SHORT})
_RESTORED = frozenset({Kind.NAME_MISSING, Kind.NAME_DIFFERS, Kind.ENTRY_MISSING, Kind.KEY_MISSING})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reconciliation may repair: nothing unless `repair`; of each kind at most `most`, and at most `share` of the site.

    A few (10) are no share of anything. `destroy_keys`: also keys that no registration knows, which cannot be undone.
    """

    repair: bool = False
    most: int = 100
    share: float = 0.05
    destroy_keys: bool = False


class Reconciliation:
    """Reconciles a site; `collection` returns the path of a collection."""

    def __init__(self, comparison: Comparison, registry: Registry, grid: Grid, spool: Spool, collection: Callable[[str], str]) -> None:
        self._comparison = comparison
        self._registry, self._grid, self._spool = registry, grid, spool
        self._collection = collection

    def run(self, limits: Limits) -> list[Difference]:
        """Compare and repair; return the differences by kind, those that occur.

        Raises:
            MdmError: a service does not answer; nothing was repaired, or a repair has to be repeated.
        """
        differences: dict[Kind, Difference] = {}
        most = min(limits.most, max(_FEW, int(limits.share * self._registry.count())))
        wanted: dict[Kind, list[str]] = {}

        def note(kind: Kind, items: Sequence[str]) -> None:
            difference = differences.setdefault(kind, Difference(kind))
            difference.found += len(items)
            difference.examples += items[: _EXAMPLES - len(difference.examples)]
            kept = wanted.setdefault(kind, [])
            kept += items[: most + 1 - len(kept)]

        self._comparison.run(note)
        for kind, difference in differences.items():
            difference.why = self._reason_not_to(kind, difference.found, most, limits)
            if not difference.why:
                difference.repaired = self._repair(kind, wanted[kind])
                difference.why = CHANGED if difference.repaired < difference.found else ""
            facts = {"kind": str(kind), "found": difference.found, "repaired": difference.repaired, "why": difference.why}
            _log.warning("services differ", extra=facts)
        return [differences[kind] for kind in Kind if kind in differences]

    def _repair(self, kind: Kind, items: Sequence[str]) -> int:
        """Repair differences of one kind, batch by batch; return how many."""
        return sum(self._repair_batch(kind, items[start : start + _BATCH]) for start in range(0, len(items), _BATCH))

    def _repair_batch(self, kind: Kind, items: Sequence[str]) -> int:
        if kind in (Kind.SHARED_MISSING, Kind.SHARED_UNSUPPORTED):
            return self._repair_shared(kind, [(level, key) for level, _, key in (item.partition("/") for item in items)])
        guids = [UUID(item) for item in items]
        if kind in _RESTORED:
            return len(self._registry.restore(guids))
        rows = self._registry.rows(guids)
        if kind is Kind.SIZE_DIFFERS:
            sizes = {guid: row.size for guid, row in rows.items() if row.size is not None}
            self._grid.set_sizes(sizes)
            return len(sizes)
        if kind is Kind.KEY_OF_REMOVED:
            return sum(error is None for error in self._grid.destroy_keys(guids).values())
        # Once more: what has been registered since is left alone.
        left = [guid for guid in guids if guid not in rows or rows[guid].state in WITHOUT]
        if kind is Kind.NAME_UNREGISTERED:
            self._grid.remove_names({guid: name.lfn for guid, name in self._grid.names(left).items()})
        elif kind is Kind.ENTRY_UNREGISTERED:
            self._grid.remove_entries(self._collection(IMAGES), [str(guid) for guid in left])
        elif kind is Kind.COPY_UNREGISTERED:
            self._spool.forget(left)
        else:
            return sum(error is None for error in self._grid.destroy_keys(left).values())
        return len(left)

    def _repair_shared(self, kind: Kind, keys: Sequence[tuple[str, str]]) -> int:
        if kind is Kind.SHARED_MISSING:
            self._registry.write_again(keys)
            return len(keys)
        for level in {level for level, _ in keys}:
            named = [key for found, key in keys if found == level]
            self._grid.remove_entries(self._collection(level), sorted(set(named) - self._registry.supported(level, named)))
        return len(keys)

    def _reason_not_to(self, kind: Kind, found: int, most: int, limits: Limits) -> str:
        if kind in _BY_HAND:
            return BY_HAND
        asked = limits.repair and (limits.destroy_keys or kind is not Kind.KEY_UNREGISTERED)
        if not asked or (kind is Kind.COPY_UNREGISTERED and not self._spool.is_ours):
            return NOT_ASKED
        return TOO_MANY if found > most else ""
