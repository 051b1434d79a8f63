"""Entries of the catalog: arguments that name them, and how people and programs read them."""

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem
from mdm_wire.errors import MdmError
from mdm_wire.permission import format_permissions

from mdm_client.catalog.model import DIRECTORY, SYMLINK, Entry
from mdm_client.cli.context import Session
from mdm_client.cli.error import report_items
from mdm_client.cli.output import print_line, printable, readable_size, show, with_path

_MAX_COMPLETIONS = 200


class LfnType(click.ParamType[str]):
    """Text that may be an LFN; the shell completes it with the entries of the directory."""

    name = "lfn"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the paths that begin with the typed text; none if the catalog does not answer at once."""
        from mdm_wire.channel import open_channel
        from mdm_wire.errors import MdmError
        from mdm_wire.retry import RetryPolicy

        from mdm_client.catalog.client import CatalogClient
        from mdm_client.catalog.model import DIRECTORY, Search
        from mdm_client.name_syntax import normalise_lfn

        if not incomplete.startswith("/"):
            return [CompletionItem("/")] if not incomplete else []
        above, _, begun = incomplete.rpartition("/")
        escaped = "".join(f"[{character}]" if character in "*?[" else character for character in begun)
        found: list[CompletionItem] = []
        try:
            config = ctx.ensure_object(Session).config()
            with open_channel(config.catalog, config.tls) as channel:
                client = CatalogClient(channel, RetryPolicy(call_seconds=3, retry_seconds=0))
                for entry in client.find(normalise_lfn(above or "/"), Search(name=f"{escaped}*", max_depth=1)):
                    found.append(CompletionItem(entry.lfn + ("/" if entry.kind == DIRECTORY else "")))
                    if len(found) == _MAX_COMPLETIONS:
                        break
        except MdmError:
            return []
        return found


LFN = LfnType()


def entry_facts(entry: Entry) -> dict[str, Any]:
    """Return an entry for JSON."""
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
    """Return a line with kind, permissions, size, date and name; sizes in bytes if `exact`."""
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
    """Write which items failed and, as JSON or if there is a word `done`, which succeeded; return the exit code."""
    for item, error in zip(items, errors, strict=True):
        if error is None and (run.as_json or done):
            show(run.as_json, {"item": item, "ok": True}, f"{done} {printable(item)}")
    return report_items(items, errors, run.as_json)
