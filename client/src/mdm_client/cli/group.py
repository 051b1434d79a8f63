"""Groups of commands that are imported when they are run, and the example with which each help ends."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose `lazy` commands have a place (`module:attribute`) and a line for its help."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lazy = dict(lazy or {})

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *self.lazy})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.lazy:
            module, _, attribute = self.lazy[name][0].partition(":")
            command: click.Command | None = getattr(import_module(module), attribute)
        else:
            command = super().get_command(context, name)
        return with_example(command, " ".join([*context.command_path.split()[1:], name])) if command else None

    def summary(self, context: click.Context, name: str) -> str:
        """Return the line of the help for a command; a lazy one is not imported for it."""
        if name in self.lazy:
            return self.lazy[name][1]
        command = self.get_command(context, name)
        return command.get_short_help_str(100) if command else ""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the end of the help, indented more than the names of commands above it."""
        with formatter.indentation():
            super().format_epilog(context, formatter)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.summary(context, name)) for name in self.list_commands(context)])


_GUID = "0b5f5e0e-4d33-4a4c-9d0e-6a0f3c1d2e4f"
_ACL = "6f1c2d3e-8a9b-4c5d-8e7f-0a1b2c3d4e5f"

_TOKEN = f"srm-1-{'k9Qm' * 10}x7A"

#: An example of each command, by the words that call it.
EXAMPLES = {
    "": "mdm get --query 'SELECT guid FROM \"/biomed/hospital-a/images\" LIMIT 10' -o images",
    "acl": "mdm acl grant /biomed/hospital-a/trial-7 group:/biomed/neuro rlxg",
    "acl get": "mdm acl get /biomed/hospital-a/trial-7",
    "acl grant": "mdm acl grant /biomed/hospital-a/trial-7 group:/biomed/neuro rlxg",
    "acl revoke": "mdm acl revoke /biomed/hospital-a/trial-7 'dn:CN=bob,O=Lab'",
    "acl set": "mdm acl set /biomed/hospital-a/trial-7 group:/biomed/neuro=read authenticated=",
    "acl who": "mdm acl who /biomed/hospital-a/trial-7 r",
    "chown": "mdm chown 'dn:CN=bob,O=Lab' /biomed/hospital-a/trial-7",
    "comment": "mdm comment /biomed/w/cohort 'follow-up after 12 months'",
    "completion": 'eval "$(mdm completion bash)"',
    "conflicts": "mdm conflicts --site hospital-a",
    "decrypt": "mdm decrypt report.pdf.mdm report.pdf",
    "delegate": "mdm delegate --to job.pem --read /biomed/hospital-a/trial-7 --for 12h -o job.token",
    "delegate ls": "mdm delegate ls",
    "delegate revoke": "mdm delegate revoke 4Zp0cX9wQm1TtY7uK2sLr8Vd",
    "desk": "mdm desk",
    "du": "mdm du --max-depth 1 /biomed/hospital-a",
    "encrypt": f"mdm encrypt --register --grant group:/biomed/neuro r {_GUID} report.pdf report.pdf.mdm",
    "find": "mdm find /biomed/hospital-a --name '0001*.dcm' --newer 2d -l",
    "get": "mdm get '/biomed/hospital-a/**/0001*.dcm' -o images --skip-existing",
    "key": f"mdm key stat {_GUID}",
    "key acl": f"mdm key acl get {_GUID}",
    "key acl assign": f"mdm key acl assign {_GUID} {_ACL}",
    "key acl chown": f"mdm key acl chown {_GUID} 'dn:CN=bob,O=Lab'",
    "key acl get": f"mdm key acl get {_GUID}",
    "key acl grant": f"mdm key acl grant {_GUID} group:/biomed/neuro rg",
    "key acl revoke": f"mdm key acl revoke {_GUID} group:/biomed/neuro",
    "key acl set": f"mdm key acl set {_GUID} group:/biomed/neuro r",
    "key audit": "mdm key audit verify",
    "key audit show": f"mdm key audit show a --after 1000 --id {_GUID}",
    "key audit verify": "mdm key audit verify a b",
    "key cancel": f"mdm key cancel a {_GUID}",
    "key job": "mdm key job a --wait",
    "key list": "mdm key list --damaged",
    "key refresh": "mdm key refresh --by a",
    "key register": f"mdm key register {_GUID} --grant group:/biomed/neuro rg",
    "key repair": "mdm key repair c",
    "key reshare": "mdm key reshare 3 5 --no-wait",
    "key rewrap": "mdm key rewrap a b c",
    "key stat": f"mdm key stat {_GUID}",
    "key unregister": f"mdm key unregister {_GUID}",
    "ln": "mdm ln /biomed/hospital-a/trial-7/0001.dcm /biomed/w/cohort/sub-01.dcm",
    "ls": "mdm ls -l /biomed/hospital-a",
    "meta": "mdm meta ls -l /biomed",
    "meta acl": "mdm meta acl get /biomed/w/jobs",
    "meta acl create": "mdm meta acl create group:/biomed/physicians=rl",
    "meta acl get": "mdm meta acl get /biomed/w/jobs",
    "meta acl grant": "mdm meta acl grant /biomed/w/jobs group:/biomed/neuro r",
    "meta acl revoke": "mdm meta acl revoke /biomed/w/jobs group:/biomed/neuro",
    "meta acl set": f"mdm meta acl set /biomed/w/jobs {_ACL}",
    "meta attr": "mdm meta attr add /biomed/w/jobs priority:int",
    "meta attr add": "mdm meta attr add /biomed/w/jobs priority:int:index duration:float:unit=s",
    "meta attr rename": "mdm meta attr rename /biomed/w/jobs duration seconds",
    "meta attr rm": "mdm meta attr rm /biomed/w/jobs duration",
    "meta attr set": "mdm meta attr set /biomed/w/jobs duration --unit s --description 'how long it ran'",
    "meta constraint": "mdm meta constraint add /biomed/w/jobs required state",
    "meta constraint add": "mdm meta constraint add /biomed/w/jobs check order 'ended >= begun'",
    "meta constraint rm": "mdm meta constraint rm /biomed/w/jobs check order",
    "meta describe": "mdm meta describe /biomed/hospital-a/images",
    "meta dump": "mdm meta dump /biomed/w -R -o w.jsonl",
    "meta entry": "mdm meta entry get /biomed/w/jobs job-1",
    "meta entry get": "mdm meta entry get /biomed/w/jobs job-1 job-2",
    "meta entry rm": "mdm meta entry rm /biomed/w/jobs job-1",
    "meta entry set": "mdm meta entry set /biomed/w/jobs job-1 state=new priority=3",
    "meta explain": "mdm meta explain 'SELECT guid FROM \"/biomed/hospital-a/images\" WHERE Rows >= 512'",
    "meta index": "mdm meta index add /biomed/w/jobs state",
    "meta index add": "mdm meta index add /biomed/w/jobs state",
    "meta index rm": "mdm meta index rm /biomed/w/jobs state",
    "meta link": "mdm meta link /biomed/w/images /biomed/hospital-a/images",
    "meta load": "mdm meta load /biomed/w/jobs jobs.csv --key job",
    "meta ls": "mdm meta ls -l /biomed/hospital-a",
    "meta mkdir": "mdm meta mkdir -p /biomed/w/jobs 'state:varchar(16):index' priority:int",
    "meta replica": "mdm meta replica",
    "meta rmdir": "mdm meta rmdir /biomed/w/jobs",
    "meta sequence": "mdm meta sequence next /biomed/w/jobs number",
    "meta sequence create": "mdm meta sequence create /biomed/w/jobs number --start 1000",
    "meta sequence ls": "mdm meta sequence ls /biomed/w/jobs",
    "meta sequence next": "mdm meta sequence next /biomed/w/jobs number --count 10",
    "meta sequence rm": "mdm meta sequence rm /biomed/w/jobs number",
    "meta take": "mdm meta take /biomed/w/jobs state=taken worker=w7 --where \"state = 'new'\" --order-by priority",
    "meta update": "mdm meta update 'UPDATE \"/biomed/w/jobs\" SET state = :new WHERE state = :old' --param new=new --param old=lost",
    "meta view": "mdm meta view /biomed/w/ct /biomed/hospital-a/images guid Rows Columns --where \"Modality = 'CT'\"",
    "mkdir": "mdm mkdir -p /biomed/w/cohort/sub-01",
    "mount": "mdm mount images /biomed/hospital-a",
    "mv": "mdm mv /biomed/w/cohort /biomed/w/cohort-2026",
    "put": "mdm put lesion.nii.gz /biomed/hospital-a/results --derived-from /biomed/hospital-a/trial-7 --meta kind=segmentation",
    "quarantine": "mdm quarantine ls --reason ULTRASOUND",
    "quarantine blank": f"mdm quarantine blank {_GUID} --region 0,0,640,60 --note 'the banner with the name'",
    "quarantine decisions": "mdm quarantine decisions --limit 20",
    "quarantine drop": f"mdm quarantine drop {_GUID} --note 'a photograph of the scanner'",
    "quarantine end-rule": "mdm quarantine end-rule drawn-7",
    "quarantine kinds": "mdm quarantine kinds --reason ULTRASOUND",
    "quarantine ls": "mdm quarantine ls --reason ULTRASOUND",
    "quarantine picture": f"mdm quarantine picture {_GUID} -o picture.jpg --blank 0,0,640,60",
    "quarantine release": f"mdm quarantine release {_GUID} --note 'no text in the image'",
    "quarantine retry": f"mdm quarantine retry {_GUID}",
    "quarantine rules": "mdm quarantine rules",
    "quarantine show": f"mdm quarantine show {_GUID}",
    "quarantine text": f"mdm quarantine text {_GUID}",
    "query": "mdm query 'SELECT lfn, Rows FROM \"/biomed/hospital-a/images\" WHERE Modality = :m LIMIT 10' --param m=CT",
    "register": "mdm register --since 2026-01-01 --modality MR --dry-run",
    "registrations": "mdm registrations --state quarantined",
    "replica": "mdm replica ls -l /biomed/hospital-a/trial-7/0001.dcm",
    "replica add": f"mdm replica add /biomed/hospital-a/trial-7/0001.dcm srm://hospital-b/{_GUID} --type secondary",
    "replica ls": "mdm replica ls -l --host hospital-b",
    "replica rm": f"mdm replica rm srm://hospital-b/{_GUID}",
    "replica set": f"mdm replica set srm://hospital-b/{_GUID} --status deleting",
    "scans": "mdm scans",
    "rm": "mdm rm -R /biomed/w/cohort",
    "rmdir": "mdm rmdir -p /biomed/w/cohort/sub-01",
    "site": "mdm site status",
    "site failures": "mdm site failures --reason KEYSTORE_UNAVAILABLE",
    "site policy": "mdm site policy",
    "site queue": "mdm site queue",
    "site retry": "mdm site retry --reason KEYSTORE_UNAVAILABLE",
    "site status": "mdm site status --json",
    "srm": "mdm srm ls -l /biomed/hospital-a/trial-7",
    "srm abort": f"mdm srm abort {_TOKEN} /biomed/hospital-a/trial-7/0001.dcm",
    "srm check": "mdm srm check /biomed/hospital-a/trial-7",
    "srm extend": f"mdm srm extend {_TOKEN} --pin 7d",
    "srm ls": "mdm srm ls -R /biomed/hospital-a/trial-7 --count 100",
    "srm ping": "mdm srm ping --site hospital-a",
    "srm release": f"mdm srm release {_TOKEN}",
    "srm requests": "mdm srm requests --description 'cohort 7'",
    "srm resume": f"mdm srm resume {_TOKEN}",
    "srm space": "mdm srm space --site hospital-a",
    "srm stage": "mdm srm stage /biomed/hospital-a/trial-7 --deferred 8h",
    "srm status": f"mdm srm status {_TOKEN} --wait",
    "srm suspend": f"mdm srm suspend {_TOKEN}",
    "show": "mdm show /biomed/hospital-a/PATIENT/STUDY/SERIES --tiles 9",
    "stage": "mdm stage /biomed/hospital-a/trial-7 --pin 3d --description 'cohort 7'",
    "stat": "mdm stat /biomed/hospital-a/trial-7/0001.dcm",
    "thumbnail": "mdm thumbnail /biomed/hospital-a/PATIENT/STUDY -o study.png",
    "unregister": "mdm unregister /biomed/hospital-a/trial-7 --reason 'consent withdrawn' --dry-run",
    "view": "mdm view /biomed/hospital-a/trial-7",
    "whoami": "mdm whoami --json",
}


def with_example(command: click.Command, path: str) -> click.Command:
    """Let the help of a command, and of the commands in it, end with an example, unless it has an end already."""
    if command.epilog is None and path in EXAMPLES:
        command.epilog = f"\b\nExample:\n  {EXAMPLES[path]}"
    if type(command) is click.Group:
        for name, inner in command.commands.items():
            with_example(inner, f"{path} {name}".strip())
    return command
