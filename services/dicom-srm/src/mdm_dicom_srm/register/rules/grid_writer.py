"""What registration writes to the grid, step by step, and how a removal takes it back. Everything here may be repeated."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from mdm_service.access.acl import Acl, AclEntry

from mdm_dicom_srm.register.rules.description import IMAGES, Description
from mdm_dicom_srm.register.rules.model import Batch, Job
from mdm_dicom_srm.register.rules.names import Names
from mdm_dicom_srm.register.rules.port import AclHolder, Collection, Grid, Outcomes, Registry
from mdm_dicom_srm.register.rules.shared_entry import SharedEntries

#: ACLs of the site itself; `private` has no entries, so that only this service has rights under it.
SITE_ACLS = ("directory", "collection", "patients", "private")
_REMEMBERED_STUDIES = 10_000
_OTHER_ACL = "KEY_GUARDED_OTHERWISE"


class Prerequisites:
    """The ACLs and collections that every step needs, created once per process unless a step failed since.

    `entries` are those of new ACLs by kind: `study` and `SITE_ACLS`. An empty owner stands for this service.
    """

    def __init__(self, names: Names, grid: Grid, entries: Mapping[str, Sequence[AclEntry]], collections: Sequence[Collection]) -> None:
        self._names = names
        self._grid = grid
        self._entries = entries
        self._collections = collections
        self.site_ready = False
        self._studies_ready: OrderedDict[UUID, None] = OrderedDict()

    def ensure_site(self) -> None:
        """Create the site's ACLs and collections.

        Raises:
            MdmError: not all of them exist now.
        """
        if not self.site_ready:
            acls = [self._acl(self._names.site_acl(kind), kind) for kind in SITE_ACLS]
            holders: tuple[AclHolder, ...] = (self._grid.metadata, self._grid.catalog)
            for holder in holders:
                holder.ensure_acls(acls)
            self._grid.metadata.ensure_collections(self._collections)
            self.site_ready = True

    def ensure_study(self, acl_id: UUID) -> None:
        """Create the ACL of a study everywhere, and before it what the site needs.

        Raises:
            MdmError: not all of it exists now.
        """
        self.ensure_site()
        if acl_id not in self._studies_ready:
            holders: tuple[AclHolder, ...] = (self._grid.keys, self._grid.metadata, self._grid.catalog)
            for holder in holders:
                holder.ensure_acls([self._acl(acl_id, "study")])
            self._studies_ready[acl_id] = None
            while len(self._studies_ready) > _REMEMBERED_STUDIES:
                self._studies_ready.popitem(last=False)

    def invalidate(self, acl_id: UUID) -> None:
        """Have the site's prerequisites and those of a study created again: a service may have lost them."""
        self.site_ready = False
        self._studies_ready.pop(acl_id, None)

    def _acl(self, acl_id: UUID, kind: str) -> Acl:
        return Acl(acl_id, "", tuple(self._entries.get(kind, ())))


class GridWriter:
    """Brings the grid's keys, metadata and names to what instances say. Safe for several threads, each with its own batch."""

    def __init__(self, registry: Registry, grid: Grid, names: Names, prerequisites: Prerequisites) -> None:
        self.prerequisites = prerequisites
        self._queue = registry.queue
        self._statements = registry.shared
        self._grid = grid
        self._names = names
        self.shared = SharedEntries(registry.shared, grid.metadata, names)

    def with_known_names(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs, those of which the catalog has names that an earlier version gave and did not keep with these names.

        Raises:
            MdmError: the catalog is away.
        """
        unknown = [job.guid for job in jobs if (job.changed or job.restoring) and job.keyed and not job.lfn]
        lfns = self._grid.catalog.lfns(unknown) if unknown else {}
        if lfns:
            self._queue.note_lfns(lfns)
        return [
            replace(job, lfn=lfns[job.guid], patient_key=self._patient_key(lfns[job.guid])) if job.guid in lfns else job for job in jobs
        ]

    def remove_changed_copies(self, jobs: Sequence[Job]) -> None:
        """Remove the staged copies of instances that have changed.

        Raises:
            MdmError: an instance of this service has not removed its copies yet.
        """
        changed = [job.guid for job in jobs if job.changed]
        if changed:
            self._grid.copies.forget(changed)

    def keyless(self, jobs: Sequence[Job]) -> set[UUID]:
        """Return the GUIDs whose key was destroyed on every keystore.

        Raises:
            MdmError: a keystore is away.
        """
        keyed = [job.guid for job in jobs if job.keyed and (job.changed or job.restoring)]
        return self._grid.keys.missing(keyed) if keyed else set()

    def make_keys(self, batch: Batch, descriptions: Sequence[Description]) -> Outcomes:
        """Create the keys of instances, with the ACL of their study."""
        acl_id = descriptions[0].acl_id
        if any(batch.by_guid[item.guid].restoring for item in descriptions):
            self.prerequisites.invalidate(acl_id)
        self.prerequisites.ensure_study(acl_id)
        errors = dict(self._grid.keys.create_keys([item.guid for item in descriptions], acl_id))
        # Their instances were in another study before. A key that we did not make is not moved: others may know it.
        moved = [guid for guid, error in errors.items() if error and error.reason == _OTHER_ACL and batch.by_guid[guid].keyed]
        return {**errors, **(self._grid.keys.move(moved, acl_id) if moved else {})}

    def store_metadata(self, batch: Batch, descriptions: Sequence[Description]) -> Outcomes:
        """Write the entries of images, and those that they share."""
        self.prerequisites.ensure_study(descriptions[0].acl_id)
        found = self._grid.metadata.upsert(self._names.collection(IMAGES), [item.image for item in descriptions])
        errors = {item.guid: error for item, error in zip(descriptions, found, strict=True)}
        stored = [item for item in descriptions if errors[item.guid] is None]
        keys = self._statements.state(batch.lease_id, {item.guid: item.statements for item in stored})
        if any(batch.by_guid[item.guid].restoring for item in stored):
            self._statements.forget_written(keys)
        self.shared.write(keys)
        return errors

    def publish(self, batch: Batch, descriptions: Sequence[Description]) -> Outcomes:
        """Register files in the catalog, or bring them to their present name, size and ACL."""
        self.prerequisites.ensure_study(descriptions[0].acl_id)
        catalog = self._grid.catalog
        catalog.ensure_directories(list(dict.fromkeys(directory for item in descriptions for directory in item.directories)))
        new = [item.file for item in descriptions if not batch.by_guid[item.guid].keyed]
        known = [item.file for item in descriptions if batch.by_guid[item.guid].keyed]
        found = (catalog.register(new) if new else []) + (catalog.replace(known) if known else [])
        errors = {file.guid: error for file, error in zip([*new, *known], found, strict=True)}
        # Before the new name is kept, so that a process killed here does it again.
        self._prune(batch.by_guid[file.guid].lfn for file in known if batch.by_guid[file.guid].lfn not in ("", file.lfn))
        return errors

    def remove(self, jobs: Sequence[Job]) -> Outcomes:
        """Remove instances backwards: copies, name, metadata, key. Repeating it after a crash at any point completes it.

        Raises:
            MdmError: a service is away; the removal has to be repeated.
        """
        guids = [job.guid for job in jobs]
        self._grid.copies.forget(guids)
        unknown = self._grid.catalog.lfns([job.guid for job in jobs if not job.lfn])
        self._queue.note_lfns(unknown)
        self._grid.catalog.remove(guids)
        self._prune([*(job.lfn for job in jobs if job.lfn), *unknown.values()])
        self._grid.metadata.remove(self._names.collection(IMAGES), [str(guid) for guid in guids])
        self.shared.write(self._statements.withdraw(guids))
        keyed = [job.guid for job in jobs if job.keyed]
        return self._grid.keys.destroy(keyed) if keyed else {}

    def _prune(self, lfns: Iterable[str]) -> None:
        """Remove the directories above files that are not there any more, if they are empty."""
        self._grid.catalog.prune(list(dict.fromkeys(path for lfn in lfns for path in self._names.directories_above(lfn))))

    def _patient_key(self, lfn: str) -> str:
        return next((path.rpartition("/")[2] for path in self._names.directories_above(lfn)[-1:]), "")
