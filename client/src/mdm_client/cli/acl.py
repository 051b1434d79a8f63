"""Commands for access control lists, built in the same way for every kind of object: `acl`, `key acl`, `meta acl`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from mdm_wire.permission import format_permissions

from mdm_client import acl
from mdm_client.cli.context import Session, session_command
from mdm_client.cli.error import OK, SOME_FAILED, exit_code_of_items, show_client_error, show_error
from mdm_client.cli.output import print_json, print_line, printable
from mdm_client.name_syntax import parse_permissions, parse_principal

if TYPE_CHECKING:
    from mdm.acl.v1 import acl_pb2

Command = TypeVar("Command", bound=Callable[..., Any])
_ALL_PERMISSIONS = "prwlxgsd"
PRINCIPAL_HELP = "PRINCIPAL is dn:CN=…,O=… (or /O=…/CN=…), group:/vo/group or authenticated. PERMISSIONS are letters:"


@dataclass(frozen=True)
class AclKind:
    """The differences between kinds of objects.

    `target` are the arguments and options that name an object; `change(run, changes, shared, own, done, **target)` changes the lists
    that guard it and returns the exit code, with `done` as the word for what it did; `arguments_help` explains the arguments.
    """

    target: Sequence[Callable[[Any], Any]]
    change: Callable[..., int]
    arguments_help: str = ""

    def command(
        self, name: str, summary: str, make: Callable[[str, int], "acl_pb2.AclChange"], done: str, permissions: str | None = None
    ) -> click.Command:
        """Return a command that changes what PRINCIPAL may do, by PERMISSIONS (default: `permissions`)."""

        def change(run: Session, principal: str, permissions: str, shared: bool, own: bool, **target: Any) -> int:
            check_sharing(shared, own)
            changes = [make(parse_principal(principal), parse_permissions(permissions))]
            return self.change(run, changes, shared, own, done, **target)

        default: dict[str, Any] = {} if permissions is None else {"default": permissions}
        arguments = [click.argument("principal"), click.argument("permissions", **default)]
        command: Any = session_command(change)
        first, *options = self.target
        for decorate in reversed([first, *arguments, *options, sharing_options]):
            command = decorate(command)
        return click.command(name, help=f"{summary}\n\n{self.arguments_help}")(command)

    def add_to(self, group: click.Group, allowed: str, taken: str) -> None:
        """Add `grant` and `revoke` to a group; `allowed` and `taken` are their helps."""
        group.add_command(self.command("grant", allowed, acl.grant, "granted"))
        group.add_command(self.command("revoke", taken, acl.revoke, "revoked", _ALL_PERMISSIONS))


def sharing_options(command: Command) -> Command:
    """Give a command --shared and --own. Without either, a list that guards other objects too is not changed: ACL_SHARED."""
    shared = click.option("--shared", is_flag=True, help="Change lists that guard other objects too, for all of these.")
    own = click.option("--own", is_flag=True, help="First give the object itself a list of its own, a copy of the one it shares.")
    return shared(own(command))


def check_sharing(shared: bool, own: bool) -> None:
    """Refuse both options together."""
    if shared and own:
        raise click.UsageError("--shared does not go with --own: a list of its own is not shared")


def show_lists(run: Session, answers: Sequence[acl.AclAnswer], what: str = "access list") -> bool:
    """Write each list once if the services agree, else as stored by each; as JSON, every answer. Return whether they agree."""
    by_id: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        if run.as_json:
            print_json(_answer_facts(answer))
        if answer.acl:
            by_id[answer.acl_id]["\n".join(_entry_lines(answer.acl))].append(answer.service)
    for acl_id, variants in {} if run.as_json else by_id.items():
        print_line(f"{what} {acl_id}")
        for lines, services in variants.items():
            note = " DIFFERENT: grant or revoke again to align them" if len(variants) > 1 else ""
            print_line(f"  in {', '.join(services)}:{note}")
            print_line(lines)
    return all(len(variants) == 1 for variants in by_id.values())


def finish(run: Session, answers: Sequence[acl.AclAnswer], advice: str = "") -> int:
    """Write the errors, each reason once if everything failed, then `advice`; return the exit code."""
    failed = [answer for answer in answers if answer.error]
    failures = [answer.error for answer in failed if answer.error]
    if len(failed) == len(answers):
        failed = list({answer.error.reason: answer for answer in reversed(failed) if answer.error}.values())
    several = len({answer.acl_id for answer in answers}) > 1
    for answer in failed:
        if answer.error:
            show_client_error(answer.error, run.as_json, answer.acl_id if several else "")
    if 0 < len(failures) < len(answers) and advice:
        show_error(f"{len(failures)} of {len(answers)} parts failed; {advice}", "INCOMPLETE", run.as_json)
    return exit_code_of_items(len(answers), failures)


def show_hidden(run: Session, hidden: int, what: str) -> int:
    """Write how many lists the caller may not see; return the exit code."""
    if hidden:
        show_error(f"{hidden} {what} not for you to see", "ACL_HIDDEN", run.as_json)
    return SOME_FAILED if hidden else OK


def acl_facts(acl_id: str, view: acl.AclView) -> dict[str, Any]:
    """Return a list for JSON."""
    entries = {who: format_permissions(bits) for who, bits in sorted(view.entries.items())}
    return {"acl_id": acl_id, "owner": view.owner, "entries": entries}


def _answer_facts(answer: acl.AclAnswer) -> dict[str, Any]:
    facts: dict[str, Any] = {"service": answer.service, "acl_id": answer.acl_id, "ok": answer.error is None}
    if answer.error:
        facts |= {"reason": answer.error.reason, "message": answer.error.message}
    if answer.acl:
        facts |= {**acl_facts(answer.acl_id, answer.acl), "rev": answer.acl.rev}
    return facts


def _entry_lines(view: acl.AclView) -> list[str]:
    lines = [f"    {'pdrwlxgs':<9} owner {printable(view.owner)}"]
    lines += [f"    {format_permissions(bits):<9} {printable(who)}" for who, bits in sorted(view.entries.items())]
    return lines
