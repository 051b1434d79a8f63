"""Commands for keys: key register, unregister, stat, list."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID, uuid4

import click
from mdm_wire.errors import Conflict, Invalid, MdmError, NotFound

from mdm_client.catalog.model import FILE, Entry
from mdm_client.cli.context import Session, common_options, session_command
from mdm_client.cli.error import SOME_FAILED, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.group import LazyGroup
from mdm_client.cli.output import print_json, print_line, printable, show
from mdm_client.client import Client
from mdm_client.keystore.client import KeyResult
from mdm_client.keystore.manager import KeyAttributes, KeyStatus
from mdm_client.name_syntax import Name, parse_names, parse_permissions, parse_principal

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: The places of further commands, and their lines of the help.
_COMMANDS = {
    "acl": ("mdm_client.cli.keystore.acl:key_acl", "Show and change who may use a key, on every keystore."),
    "audit": ("mdm_client.cli.keystore.operator:key_audit", "Read and verify what keystores recorded (operators only)."),
    "cancel": ("mdm_client.cli.keystore.operator:cancel", "Stop a refresh, repair or reshare."),
    "job": ("mdm_client.cli.keystore.operator:job", "Show how far a refresh, repair or reshare is."),
    "refresh": ("mdm_client.cli.keystore.operator:refresh", "Give every key new shares (operators only)."),
    "repair": ("mdm_client.cli.keystore.operator:repair", "Give keystores the shares again that they lost (operators only)."),
    "reshare": ("mdm_client.cli.keystore.operator:reshare", "Split every key anew, k of n (operators only)."),
    "rewrap": ("mdm_client.cli.keystore.operator:rewrap", "Seal shares under a new key-encryption key (operators only)."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
@common_options
def key() -> None:
    """Create, inspect, share and destroy the keys of files, on all keystores together."""


def find_keys(client: Client, texts: Sequence[str]) -> list[UUID | MdmError]:
    """Return the GUID of each key, or the error; the catalog is asked only about names that are no GUIDs."""
    names = parse_names(texts)
    unresolved = [name for name in names if name.guid is None]
    entries = dict(zip(unresolved, client.catalog.stat(unresolved), strict=True)) if unresolved else {}
    return [name.guid or _guid_of(name, entries[name]) for name in names]


def _guid_of(name: Name, entry: Entry | MdmError) -> UUID | MdmError:
    if isinstance(entry, MdmError):
        return entry
    if entry.kind != FILE or entry.guid is None:
        return Invalid("NOT_A_FILE", f"{name}: not a file, so it has no key")
    return entry.guid


def find_key(client: Client, text: str) -> UUID:
    """Return the GUID of one key, or raise the error of its name."""
    (found,) = find_keys(client, [text])
    if isinstance(found, MdmError):
        raise found if text in found.message else found.at(text)
    return found


def _find_each(run: Session, client: Client, texts: Sequence[str]) -> tuple[list[UUID], list[MdmError]]:
    """Return the GUIDs of keys, each once, and the errors of the others, which are written."""
    failures = []
    guids = []
    for text, answer in zip(texts, find_keys(client, texts), strict=True):
        if isinstance(answer, MdmError):
            failures.append(answer)
            show_client_error(answer, run.as_json, text)
        else:
            guids.append(answer)
    return list(dict.fromkeys(guids)), failures


def acl_options(command: _Command) -> _Command:
    """Give a command that registers keys --acl and --grant."""
    acl = click.option("--acl", "acl_id", type=click.UUID, metavar="ACL_ID", help="Guard it by this access list, which exists.")
    grant = click.option(
        "--grant",
        "grants",
        nargs=2,
        multiple=True,
        metavar="PRINCIPAL PERMISSIONS",
        help="Allow somebody from the beginning, such as group:/vo/group rg; may be repeated.",
    )
    return acl(grant(command))


def entries_of(grants: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """Return permission bits by principal; errors as `parse_principal` and `parse_permissions`."""
    entries: dict[str, int] = {}
    for who, letters in grants:
        principal = parse_principal(who)
        entries[principal] = entries.get(principal, 0) | parse_permissions(letters)
    return entries


def register_keys(
    client: Client, guids: list[UUID], acl_id: UUID | None, entries: Mapping[str, int]
) -> tuple[UUID, dict[UUID, MdmError | None]]:
    """Register keys as `KeyManager.register` does, and explain its conflicts."""
    if acl_id and entries:
        raise click.UsageError("--grant is for a new access list; change the one of --acl with mdm key acl grant")
    try:
        return client.keys.register(guids, acl_id, entries)
    except Conflict as error:
        mine = client.keys.own_acl_id(guids)
        what = "belongs to somebody else by now: name another one with --acl"
        if error.reason == "ACL_EXISTS":
            what = f"of an earlier registration has other entries by now: to use it, add --acl {mine}"
        raise Conflict(error.reason, f"the access list {mine} {what}") from error


@key.command()
@click.argument("identifiers", nargs=-1, metavar="[ID...]")
@acl_options
@session_command
def register(run: Session, identifiers: tuple[str, ...], acl_id: UUID | None, grants: tuple[tuple[str, str], ...]) -> int:
    """Create keys on every keystore; without ID, one with a new GUID. All keystores must be up.

    The keys of one command share one access list: that of --acl, else a new one that you own. It is safe to repeat the command;
    a key that exists is never replaced.
    """
    entries = entries_of(grants)
    client = run.client()
    guids, failures = _find_each(run, client, identifiers) if identifiers else ([uuid4()], [])
    if guids:
        used, errors = register_keys(client, guids, acl_id, entries)
        for guid, error in errors.items():
            if error is not None:
                failures.append(error)
                show_client_error(error, run.as_json, str(guid))
            else:
                show(run.as_json, {"guid": str(guid), "acl_id": str(used)}, f"{guid}  access list {used}")
    return exit_code_of_items(max(1, len(identifiers)), failures)


@key.command()
@click.argument("identifiers", nargs=-1, required=True, metavar="ID...")
@session_command
def unregister(run: Session, identifiers: tuple[str, ...]) -> int:
    """Destroy keys on every keystore: nothing encrypted under them, wherever it is, can be read again. Needs `d`.

    There is no way back. If a keystore is away, run the command again to destroy its shares too.
    """
    client = run.client()
    guids, failures = _find_each(run, client, identifiers)
    for result in client.keys.unregister(guids):
        failures += report_result(run, result, "destroyed")
    return exit_code_of_items(len(identifiers), failures)


@key.command()
@click.argument("identifiers", nargs=-1, required=True, metavar="ID...")
@session_command
def stat(run: Session, identifiers: tuple[str, ...]) -> int:
    """Show what each keystore holds of keys, and where they differ; nothing secret. Needs `g` or `r`, or an operator.

    Exit code 1 if a keystore lacks a key or differs from the others.
    """
    client = run.client()
    guids, failures = _find_each(run, client, identifiers)
    damaged = 0
    for status in client.keys.stat(guids):
        if status.error:
            failures.append(status.error)
            show_client_error(status.error, run.as_json, str(status.guid))
            continue
        damaged += not status.whole
        if run.as_json:
            print_json(_facts(status))
        else:
            _print_status(status)
    return exit_code_of_items(len(identifiers), failures) or (SOME_FAILED if damaged else 0)


@key.command("list")
@click.option("--damaged", is_flag=True, help="Only keys that a keystore lacks, or of which it differs from the others.")
@session_command
def list_keys(run: Session, damaged: bool) -> int:
    """List the keys that you may list, for an operator all, in order of GUID.

    Each with k of n, epoch and version of its shares, state, access list, and the keystores that lack it or differ.
    """
    bad = 0
    away: dict[str, MdmError] = {}
    for status in run.client().keys.list_keys():
        bad += not status.whole
        away |= {name: part for name, part in status.parts.items() if isinstance(part, MdmError) and not isinstance(part, NotFound)}
        if damaged and status.whole:
            continue
        show(run.as_json, _facts(status), "  ".join([str(status.guid), _summary(status), *_differences(status)]))
    for error in away.values():
        show_client_error(error, run.as_json)
    if bad:
        show_error(f"{bad} keys are not the same on every keystore", "KEYS_DAMAGED", run.as_json)
    return SOME_FAILED if bad else 0


def report_result(run: Session, result: KeyResult, done: str, absent: str = "was not there") -> list[MdmError]:
    """Write the result for one key on each keystore; return its error, if any: INCOMPLETE if some keystores are done."""
    if run.as_json:
        parts = {name: _error_facts(error) for name, error in result.parts.items()}
        print_json({"guid": str(result.guid), "done": result.error is None, "keystores": parts})
    elif result.begun:
        print_line(f"{result.guid}:")
        for name, error in result.parts.items():
            said = done if error is None else absent if isinstance(error, NotFound) else f"NOT {done}"
            print_line(f"  keystore {name}  {said}")
    if result.error is None:
        return []
    show_client_error(result.error, run.as_json, str(result.guid))
    if not result.begun:
        return [result.error]
    incomplete = MdmError("INCOMPLETE", f"{result.guid}: not {done} everywhere; run it again to complete it")
    show_client_error(incomplete, run.as_json)
    return [incomplete]


def _error_facts(error: MdmError | None) -> dict[str, Any]:
    return {"ok": True} if error is None else {"ok": False, "reason": error.reason, "message": error.message}


def _facts(status: KeyStatus) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, part in status.parts.items():
        if isinstance(part, MdmError):
            parts[name] = _error_facts(part)
            continue
        parts[name] = {
            "ok": True,
            "state": part.state,
            "share": part.share_index,
            "threshold": part.threshold,
            "total": part.total,
            "epoch": part.epoch,
            "version": part.version,
            "acl_id": part.acl_id,
            "created": part.created.isoformat(),
            "agrees": part.common == status.majority,
        }
    return {"guid": str(status.guid), "whole": status.whole, "keystores": parts}


def _summary(status: KeyStatus) -> str:
    return _described(next(facts for facts in status.known.values() if facts.common == status.majority))


def _described(facts: KeyAttributes) -> str:
    return f"{facts.threshold} of {facts.total}  epoch {facts.epoch}  version {facts.version}  {facts.state}  access list {facts.acl_id}"


def _differences(status: KeyStatus) -> list[str]:
    notes = []
    for name, part in status.parts.items():
        if isinstance(part, NotFound):
            notes.append(f"MISSING in {name}")
        elif isinstance(part, MdmError):
            notes.append(f"UNKNOWN in {name}")
        elif part.common != status.majority:
            notes.append(f"DIFFERENT in {name}")
    return notes


def _print_status(status: KeyStatus) -> None:
    print_line(f"{status.guid}  {_summary(status)}")
    for name, part in status.parts.items():
        if isinstance(part, MdmError):
            print_line(f"  keystore {name}  {'MISSING' if isinstance(part, NotFound) else 'UNKNOWN'}: {printable(part.message)}")
        else:
            note = "" if part.common == status.majority else f"  DIFFERENT: {_described(part)}"
            print_line(f"  keystore {name}  share {part.share_index}, stored {part.created:%Y-%m-%d %H:%M} UTC{note}")
