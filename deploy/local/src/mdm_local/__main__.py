"""The command `mdm-local`: the whole suite on one machine."""

import argparse
import json
import sys
from pathlib import Path

from mdm_site.site import SiteError, collection

from mdm_local import status
from mdm_local.layout import COMPONENTS, Layout, default_root
from mdm_local.pacs.kind import KINDS
from mdm_local.stack import Stack
from mdm_local.state import Coupling

#: Services that need no others: a site that only publishes or copies metadata has no PACS.
_ALONE = ("catalog", "metadata")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data-dir",
        type=Path,
        default=argparse.SUPPRESS,
        help="where everything of the stack lies (default: .mdm-local in this checkout, else the user's state directory)",
    )
    root = argparse.ArgumentParser(prog="mdm-local", description="Runs the whole suite on this machine.", parents=[common])
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", parents=[common], help="start whatever does not run")
    up.add_argument("--pacs", choices=("auto", *KINDS), default="auto", help="which PACS a new stack gets (default: Orthanc if installed)")
    up.add_argument("--name", default="", help="name of a new stack's site (default: hospital-a)")
    up.add_argument("--only", action="append", choices=_ALONE, default=[], help="run only this service, without a PACS; may be repeated")
    up.add_argument("--instances", type=int, choices=(1, 2), default=0, help="how many instances of dicom-srm (default: as it was, else 1)")
    couple = commands.add_parser(
        "couple", parents=[common], help="copy another stack's anonymous metadata, and let each one's users ask both"
    )
    couple.add_argument("origin", type=Path, metavar="DIR", help="data directory of the stack that is copied")
    down = commands.add_parser("down", parents=[common], help="stop everything")
    down.add_argument("--purge", action="store_true", help="remove the data directory too, images and keys included")
    shown = commands.add_parser("status", parents=[common], help="show what runs; exit code 3 if not everything is healthy")
    shown.add_argument("--json", action="store_true", help="for programs")
    demo = commands.add_parser("demo", parents=[common], help="bring the stack up and walk through it with real images")
    demo.add_argument("--pacs", choices=("auto", *KINDS), default="auto", help=argparse.SUPPRESS)
    for name, text in (("start", "start one component"), ("stop", "stop one component"), ("kill", "crash one component (SIGKILL)")):
        commands.add_parser(name, parents=[common], help=text).add_argument("component", choices=COMPONENTS, metavar="COMPONENT")
    return root


def run(arguments: argparse.Namespace) -> int:
    """Run the parsed command and return the exit code."""
    root = (getattr(arguments, "data_dir", None) or default_root()).expanduser().resolve()
    stack = Stack(Layout(root), report=lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    command = arguments.command
    if command == "up":
        stack.up(arguments.pacs, arguments.name, arguments.only, arguments.instances)
        print(f"up; see `mdm-local status --data-dir {root}`")
    elif command == "down":
        stack.down()
        if arguments.purge:
            stack.purge()
    elif command == "status":
        return _show(stack, arguments.json)
    elif command == "demo":
        from mdm_local.demo import run_demo

        run_demo(stack, arguments.pacs)
    elif command == "couple":
        couple(stack, Stack(Layout(arguments.origin.expanduser().resolve())))
    else:
        getattr(stack, command)(arguments.component)
    return 0


def couple(copy: Stack, origin: Stack) -> None:
    """Have one stack copy another's anonymous metadata, and each know the other's users.

    Raises:
        SiteError: one of them was never up, or both have the same name.
    """
    if copy.state.name == origin.state.name:
        raise SiteError(f"both stacks are called {copy.state.name}: make a new one by `mdm-local up --name NAME`")
    origin.couple(copy.state.name, Coupling(str(copy.layout.root), copies_us=True))
    copy.couple(origin.state.name, Coupling(str(origin.layout.root), copied_here=True))
    print(f"{copy.state.name} copies {collection(origin.state.name)}; users of both have [metadata_sites] for `mdm query --sites`")


def _show(stack: Stack, as_json: bool) -> int:
    document = status.document(stack)
    print(json.dumps(document, indent=1) if as_json else "\n".join(status.lines(document)))
    return 0 if document["up"] else 3


def main() -> None:
    """Run the command line."""
    try:
        sys.exit(run(parser().parse_args()))
    except SiteError as error:
        sys.exit(f"mdm-local: {error}")
    except KeyboardInterrupt:
        sys.exit("mdm-local: interrupted; `mdm-local status` shows what runs")


if __name__ == "__main__":
    main()
