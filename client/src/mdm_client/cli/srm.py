"""Commands for staged files: stage, and srm ls, status, release, abort, extend, suspend, resume, requests, check, space, ping."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import click
from mdm.srm.v1 import srm_pb2 as pb
from mdm_wire.errors import NO_SUCH_FILE, Code, Invalid, MdmError, TimedOut, make_error
from mdm_wire.permission import format_permissions
from mdm_wire.url import is_token, surl, surl_authority, surl_of_lfn

from mdm_client.cli.catalog.entry import LFN
from mdm_client.cli.context import Session, session_command
from mdm_client.cli.error import OK, Failures, exit_code_of_items
from mdm_client.cli.group import LazyGroup
from mdm_client.cli.output import print_json, print_line, printable, readable_size, show
from mdm_client.cli.staged import entry_facts, entry_line, file_facts, file_line, moment, state_name, status_facts, status_line
from mdm_client.client import Client
from mdm_client.fetch.srm import SrmClient, Want
from mdm_client.fetch.state import error_of
from mdm_client.name_syntax import Name, parse_names

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,12})([smhdw]?)")
_POLL_SECONDS = 1.0
_WAITING = frozenset({pb.STATUS_CODE_REQUEST_QUEUED, pb.STATUS_CODE_REQUEST_INPROGRESS})
_GOOD = _WAITING | {pb.STATUS_CODE_FILE_PINNED, pb.STATUS_CODE_RELEASED}


class _Duration(click.ParamType[int]):
    """Seconds, or a number with s, m, h, d or w."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail("write seconds, or a number with s, m, h, d or w, such as 12h", param, ctx)
        return int(match[1]) * _UNITS[match[2] or "s"]


_site = click.option("--site", default="", help="Which site; needed where several are configured.")
_pin = click.option("--pin", type=_Duration(), default=0, metavar="TIME", help="How long: 3600, 12h, 3d (default: the site's).")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@_pin
@click.option("--deferred", type=_Duration(), default=0, metavar="TIME", help="Begin so much later: 8h.")
@click.option("--description", default="", metavar="TEXT", help="To find the request again: mdm srm requests --description TEXT.")
@click.option("--max-depth", type=click.IntRange(min=1), metavar="N", help="How far below directories (default: everything).")
@_site
@session_command
def stage(run: Session, targets: tuple[str, ...], pin: int, deferred: int, description: str, max_depth: int | None, site: str) -> int:
    """Have files brought online for later: each TARGET is the LFN of a file or directory, a GUID or a SURL.

    Returns at once and prints the token of the request, one for each site. A later mdm get finds the files ready while they are pinned.
    """
    client, failures = run.client(), Failures()
    want = Want(pin, description, max_depth or 0, deferred_seconds=deferred)
    total = 0
    for srm, surls in _by_site(client, parse_names(targets), site):
        response = srm.bring_online(surls, want)
        total += len(response.files)
        for file in response.files:
            if file.status not in _GOOD:
                failures.add(file.surl, error_of(file.surl, file))
        facts = {"site": srm.site, "token": response.token, "status": state_name(response.status), "files": len(response.files)}
        show(run.as_json, facts, response.token)
    failures.show(run.as_json)
    return exit_code_of_items(total, failures.errors)


@click.group(cls=LazyGroup)
def srm() -> None:
    """Look after staged files: what is where, requests, pins, spools."""


srm.add_command(copy(stage))


@srm.command("ls")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@click.option("-l", "--long", is_flag=True, help="What you may do, size, end of your pin too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below too.")
@click.option("-d", "--directory", is_flag=True, help="TARGET itself, not what is in it.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N.")
@click.option("--count", type=click.IntRange(min=1, max=10_000), metavar="N", help="At most N.")
@_site
@session_command
def list_files(
    run: Session, targets: tuple[str, ...], long: bool, recursive: bool, directory: bool, offset: int, count: int | None, site: str
) -> int:
    """List files of a site and where their bytes are.

    NEARLINE: in the PACS; ONLINE_AND_NEARLINE: staged, too; ONLINE: staged, and the PACS does not answer; UNAVAILABLE: cannot be staged
    now; LOST: gone.
    """
    failures, total = Failures(), 0
    levels = 0 if recursive else -1 if directory else 1
    for client, surls in _by_site(run.client(), parse_names(targets), site):
        for entry in client.ls(surls, levels, full=long, offset=offset, count=count or 0):
            total += 1
            if entry.status != pb.STATUS_CODE_SUCCESS:
                failures.add(entry.surl, _not_there(entry.surl))
            elif run.as_json:
                print_json(entry_facts(entry, long))
            else:
                print_line(entry_line(entry, long))
    failures.show(run.as_json)
    return exit_code_of_items(total, failures.errors)


@srm.command()
@click.argument("token")
@click.option("-l", "--long", is_flag=True, help="Each file too.")
@click.option("--wait", is_flag=True, help="Return when nothing waits any more.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Longest wait in seconds.")
@_site
@session_command
def status(run: Session, token: str, long: bool, wait: bool, timeout: float, site: str) -> int:
    """Show how far a request is; with --wait, exit code 1 if files failed."""
    client = run.client().srm(site)
    deadline = time.monotonic() + timeout
    response = client.status(_token(token))
    while wait and any(file.status in _WAITING for file in response.files):
        if time.monotonic() > deadline:
            raise TimedOut("REQUEST_UNDER_WAY", f"{client.place}: files are still being staged after {timeout:.0f} s")
        time.sleep(_POLL_SECONDS)
        response = client.status(token)
    failures = Failures()
    for file in response.files:
        if file.status not in _GOOD:
            failures.add(file.surl, error_of(file.surl, file))
    if run.as_json:
        print_json(status_facts(token, response))
        for file in response.files if long else ():
            print_json(file_facts(file))
    else:
        print_line(status_line(response))
        for file in response.files if long else ():
            print_line(file_line(file))
    if not wait:
        return OK
    failures.show(run.as_json)
    return exit_code_of_items(len(response.files), failures.errors)


@srm.command()
@click.argument("token_or_target")
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@_site
@session_command
def release(run: Session, token_or_target: str, targets: tuple[str, ...], site: str) -> int:
    """Release your pins: of a request, or of its files named by TARGET; without a token every pin that you have on them."""
    token = token_or_target if is_token(token_or_target) else ""
    named = targets if token else (token_or_target, *targets)
    client = run.client()
    if token and not named:
        return _shown(run, client.srm(site).release(token))
    return _shown(run, [file for found, surls in _by_site(client, parse_names(named), site) for file in found.release(token, surls)])


@srm.command()
@click.argument("token")
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@_site
@session_command
def abort(run: Session, token: str, targets: tuple[str, ...], site: str) -> int:
    """End a request, or only its files named by TARGET: what waits is dropped, what is pinned released."""
    client = run.client()
    if targets:
        named = parse_names(targets)
        return _shown(run, [f for found, surls in _by_site(client, named, site) for f in found.abort_files(_token(token), surls)])
    return _show_state(run, token, client.srm(site).abort(_token(token)))


@srm.command()
@click.argument("token")
@click.argument("targets", nargs=-1, metavar="[TARGET...]", type=LFN)
@_pin
@_site
@session_command
def extend(run: Session, token: str, targets: tuple[str, ...], pin: int, site: str) -> int:
    """Keep what a request pinned, or only its files named by TARGET, for --pin from now."""
    client = run.client()
    if not targets:
        return _shown(run, client.srm(site).extend(_token(token), (), pin))
    named = parse_names(targets)
    return _shown(run, [file for found, surls in _by_site(client, named, site) for file in found.extend(_token(token), surls, pin)])


@srm.command()
@click.argument("token")
@_site
@session_command
def suspend(run: Session, token: str, site: str) -> int:
    """Let what is not staged yet of a request wait. Its life time goes on."""
    return _show_state(run, token, run.client().srm(site).suspend(_token(token)))


@srm.command()
@click.argument("token")
@_site
@session_command
def resume(run: Session, token: str, site: str) -> int:
    """Go on with a suspended request."""
    return _show_state(run, token, run.client().srm(site).resume(_token(token)))


@srm.command()
@click.option("--description", default="", metavar="TEXT", help="Only those with this description.")
@_site
@session_command
def requests(run: Session, description: str, site: str) -> int:
    """List your requests, newest first."""
    for item in run.client().srm(site).requests(description):
        counts = {name: getattr(item, name) for name in ("files", "waiting", "pinned", "finished", "failed")}
        facts = {
            "token": item.token,
            "status": state_name(item.status),
            "kind": pb.RequestKind.Name(item.kind).removeprefix("REQUEST_KIND_"),
            "description": item.description,
            "created": moment(item.create_time.seconds),
            **counts,
        }
        numbers = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        line = f"{item.token}  {facts['created']}  {facts['status']}: {numbers}  {printable(item.description)}"
        show(run.as_json, facts, line.rstrip())
    return OK


@srm.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...", type=LFN)
@_site
@session_command
def check(run: Session, targets: tuple[str, ...], site: str) -> int:
    """Show what you may do with files and directories (pdrwlxgs)."""
    failures, total = Failures(), 0
    for client, surls in _by_site(run.client(), parse_names(targets), site):
        for item in client.permissions(surls):
            total += 1
            letters = format_permissions(item.permissions)
            if item.status != pb.STATUS_CODE_SUCCESS:
                failures.add(item.surl, _not_there(item.surl))
            else:
                show(run.as_json, {"surl": item.surl, "permissions": letters}, f"{letters:<8}  {printable(item.surl)}")
    failures.show(run.as_json)
    return exit_code_of_items(total, failures.errors)


@srm.command()
@click.argument("names", nargs=-1, metavar="[INSTANCE...]")
@_site
@session_command
def space(run: Session, names: tuple[str, ...], site: str) -> int:
    """Show how full the spools of a site's instances are."""
    failures, found = Failures(), run.client().srm(site).spaces(names)
    for item in found:
        if item.status != pb.STATUS_CODE_SUCCESS:
            failures.add(item.token, make_error(Code.NOT_FOUND, "INSTANCE_UNKNOWN", f"{item.token}: no instance of this name is serving"))
            continue
        fields = ("total_bytes", "free_bytes", "stored_bytes", "pinned_bytes", "files", "default_pin_seconds", "max_pin_seconds")
        facts = {"instance": item.token} | {name: getattr(item, name) for name in fields}
        sizes = [readable_size(size) for size in (item.stored_bytes, item.total_bytes, item.pinned_bytes, item.free_bytes)]
        line = f"{item.token}: {sizes[0]} of {sizes[1]} in {item.files} files, {sizes[2]} pinned, {sizes[3]} can be had"
        show(run.as_json, facts, line)
    failures.show(run.as_json)
    return exit_code_of_items(len(found), failures.errors)


@srm.command()
@_site
@session_command
def ping(run: Session, site: str) -> int:
    """Ask every address of a site who answers there."""
    client, failures = run.client(), Failures()
    addresses = client.config.srm[client.srm(site).site]
    for address, answer in zip(addresses, client.srm(site).ping(), strict=True):
        if isinstance(answer, MdmError):
            failures.add(address, answer)
            continue
        facts = {"address": address, "site": answer.site, "instance": answer.instance, "version": answer.version}
        show(run.as_json, facts, f"{address}: site {answer.site}, instance {answer.instance}, version {answer.version}")
    failures.show(run.as_json)
    return exit_code_of_items(len(addresses), failures.errors)


def _by_site(client: Client, names: Sequence[Name], site: str) -> list[tuple[SrmClient, list[str]]]:
    """Return the SURLs of names by the site that has them: as they say, else as `site` says.

    An LFN says it by its second name, /vo/site/….
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.surl:
            found[surl_authority(name.surl)].append(name.surl)
            continue
        second = name.lfn.split("/")[2:3]
        where = site or (second[0] if second and second[0] in client.config.srm else client.srm().site)
        found[where].append(surl_of_lfn(where, name.lfn) if name.guid is None else surl(where, name.guid))
    return [(client.srm(where), surls) for where, surls in found.items()]


def _token(text: str) -> str:
    if not is_token(text):
        raise Invalid("TOKEN_MALFORMED", f"{printable(text)[:80]}: not a request token, as mdm stage prints; mdm srm requests lists yours")
    return text


def _not_there(surl: str) -> MdmError:
    return make_error(Code.NOT_FOUND, "INVALID_PATH", f"{surl}: {NO_SUCH_FILE}")


def _show_state(run: Session, token: str, state: "pb.StatusCode.ValueType") -> int:
    show(run.as_json, {"token": token, "status": state_name(state)}, state_name(state))
    return OK


def _shown(run: Session, files: Iterable[pb.FileStatus]) -> int:
    """Write what became of files; those that were not the caller's to change are failures."""
    failures, total = Failures(), 0
    for file in files:
        total += 1
        if file.status == pb.STATUS_CODE_INVALID_PATH:
            failures.add(file.surl, error_of(file.surl, file))
        else:
            show(run.as_json, file_facts(file), file_line(file))
    failures.show(run.as_json)
    return exit_code_of_items(total, failures.errors)
