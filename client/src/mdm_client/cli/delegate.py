"""Commands by which users let jobs read for them: delegate, delegate ls, delegate revoke."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from mdm_wire.delegation import ANY_AUDIENCE
from mdm_wire.errors import Invalid

from mdm_client.cli.context import Session, common_options, force_option, session_command
from mdm_client.cli.error import OK, report_items
from mdm_client.cli.group import LazyGroup
from mdm_client.cli.output import print_json, printable, show, show_table
from mdm_client.delegation import Job, Record
from mdm_client.local_file import new_file
from mdm_client.name_syntax import parse_names

_LIFE = re.compile(r"([1-9]\d{0,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


class _Life(click.ParamType[int]):
    """How long a token lives, such as 90m, 12h or 2d; its value is in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _LIFE.fullmatch(str(value))
        if isinstance(value, int) or match is None:
            return value if isinstance(value, int) else self.fail("write 90m, 12h or 2d", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


@click.group(cls=LazyGroup, invoke_without_command=True)
@click.option("--to", metavar="CERTIFICATE|DN", help="Whom the token is for: its certificate's file, or any certificate of a DN.")
@click.option("--read", "names", multiple=True, metavar="PATH", help="A file, or a directory and all below it; may be given several times.")
@click.option("--for", "seconds", type=_Life(), default="12h", show_default=True, metavar="TIME", help="How long: 90m, 12h, 2d.")
@click.option("--audience", default=ANY_AUDIENCE, show_default=True, metavar="URL", help="The grid or site that is to accept it.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Where to write the token (default: standard output)."
)
@force_option
@common_options
@click.pass_context
def delegate(
    context: click.Context, to: str | None, names: tuple[str, ...], seconds: int, audience: str, output: Path | None, force: bool
) -> int:
    """Let a job read some of what you may read, for a while, with a certificate of its own and never your key.

    The token is signed by your key and good only beside the job's certificate: mdm --delegation FILE. It never gives more than you have,
    and only reading; when your certificate is revoked or your rights are withdrawn, it is worth nothing.
    """
    if context.invoked_subcommand is not None:
        return OK
    if to is None or not names:
        raise click.UsageError("give --to CERTIFICATE or DN, and --read PATH at least once")
    run = context.ensure_object(Session)
    token, made = run.client().delegate(Job.parse(to), parse_names(names), seconds, audience)
    until = datetime.fromtimestamp(made.expires, UTC).isoformat()
    # Recorded before it is handed out: what is not recorded could not be revoked.
    facts = {"id": made.id, "job": made.job, "paths": list(made.paths), "expires": until, "audience": audience}
    Record().add(**facts, user=made.user)
    if output is None:
        show(run.as_json, {**facts, "token": token}, token)
        return OK
    with new_file(output, replace=force) as file:
        file.write(f"{token}\n".encode())
    show(run.as_json, {**facts, "file": str(output)}, f"{output}: {made.id} lets {printable(made.job)} read until {until}")
    return OK


@delegate.command("ls")
@click.option("--all", "everything", is_flag=True, help="Also those that have expired or were revoked.")
@session_command
def list_delegations(run: Session, everything: bool) -> int:
    """List the tokens that you made on this machine and that are still good."""
    rows = []
    for facts in Record().all():
        state = _state(facts)
        if not everything and state != "good":
            continue
        if run.as_json:
            print_json({**facts, "state": state})
        else:
            rows.append((facts["id"], state, facts.get("expires", ""), facts.get("job", ""), " ".join(facts.get("paths", ()))))
    if not run.as_json:
        show_table((("ID", "uuid"), ("STATE", "uuid"), ("EXPIRES", "uuid"), ("JOB", "text"), ("READS", "text")), rows)
    return OK


@delegate.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All tokens that you made on this machine and that are still good.")
@session_command
def revoke(run: Session, ids: tuple[str, ...], everything: bool) -> int:
    """Have every service refuse a token from now on; repeat it if one is away.

    The ID is the token's: mdm delegate ls.
    """
    if bool(ids) == everything:
        raise click.UsageError("give the IDs of tokens, or --all")
    known = {facts["id"]: facts for facts in Record().all()}
    wanted = ids or tuple(name for name, facts in known.items() if _state(facts) == "good")
    code = OK
    for delegation_id in wanted:
        # Services keep each user's revocations apart: an ID that is not this user's would seem to be revoked, and stay good.
        maker = known.get(delegation_id, {}).get("user")
        if maker is None or maker != run.client().caller:
            who = "it is not in this machine's record" if maker is None else f"{printable(maker)} made it"
            raise Invalid("DELEGATION_NOT_YOURS", f"{delegation_id}: {who}; revoke it where, and as who, it was made")
        answers = run.client().revoke_delegation(delegation_id)
        failed = report_items([f"{delegation_id} at {place}" for place in answers], list(answers.values()), run.as_json)
        if failed == OK:
            Record().add(id=delegation_id, revoked=True)
            show(run.as_json, {"id": delegation_id, "revoked": True}, f"{delegation_id}: revoked at {len(answers)} services")
        code = code or failed
    return code


def _state(facts: dict[str, Any]) -> str:
    if facts.get("revoked"):
        return "revoked"
    try:
        return "good" if datetime.fromisoformat(facts["expires"]) > datetime.now(UTC) else "expired"
    except (KeyError, ValueError, TypeError) as error:
        raise Invalid("RECORD_DAMAGED", f"{Record().path}: a line is damaged: remove it") from error
