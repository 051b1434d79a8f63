"""Catalog entries, and what became of them, as people read them, and as JSON."""

from collections.abc import Sequence
from typing import Any

from mdm_wire.errors import MdmError
from mdm_wire.permission import format_permissions

from mdm_client.catalog.model import DIRECTORY, SYMLINK, Entry
from mdm_client.cli.context import Session
from mdm_client.cli.error import exit_code_of_items, show_client_error
from mdm_client.cli.table import print_json, print_line, printable, readable_size
from mdm_client.cli.width import with_path


def entry_facts(entry: Entry) -> dict[str, Any]:
    """Return everything about an entry, for JSON."""
    return {
        "lfn": entry.lfn,
        "kind": entry.kind,
        "guid": str(entry.guid) if entry.guid else None,
        "link_target": entry.link_target or None,
        "size": entry.size,
        "sha256": entry.sha256.hex() or None,
        "comment": entry.comment,
        "owner": entry.owner,
        "permissions": format_permissions(entry.permissions),
        "acl_id": entry.acl_id,
        "default_acl_id": entry.default_acl_id or None,
        "created": entry.create_time.isoformat(),
        "modified": entry.modify_time.isoformat(),
        "accessed": entry.access_time.isoformat() if entry.access_time else None,
        "rev": entry.rev,
        "replicas": list(entry.surls),
    }


def shown_name(entry: Entry, name: str) -> str:
    """Return a name with a mark of its kind: `/` for directories, `@` for links."""
    return printable(name) + ({DIRECTORY: "/", SYMLINK: "@"}.get(entry.kind, "") if name != "/" else "")


def long_line(entry: Entry, name: str, exact: bool = False) -> str:
    """Return a line with kind, what the caller may do, size, date and name; sizes in bytes if `exact`."""
    kind = {DIRECTORY: "d", SYMLINK: "l"}.get(entry.kind, "-")
    size = "" if entry.size is None else str(entry.size) if exact else readable_size(entry.size)
    leads = f" -> {printable(entry.link_target)}" if entry.kind == SYMLINK else ""
    return with_path(f"{kind} {format_permissions(entry.permissions):<8}  {size:>9}  {entry.modify_time:%Y-%m-%d %H:%M}  ", name + leads)


def print_facts(facts: dict[str, Any]) -> None:
    """Print names and values in two columns."""
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print_line(f"{key.replace('_', ' '):<{width}}  {printable(text)}")


def finish(run: Session, items: Sequence[str], errors: Sequence[MdmError | None], done: str = "") -> int:
    """Tell which items failed, and which were `done` where that is a word or JSON is wanted; return the exit code."""
    failures: list[MdmError] = []
    for item, error in zip(items, errors, strict=True):
        if error is not None:
            failures.append(error)
            show_client_error(error, run.as_json, item)
        elif run.as_json:
            print_json({"item": item, "ok": True})
        elif done:
            print_line(f"{done} {printable(item)}")
    return exit_code_of_items(len(items), failures)
