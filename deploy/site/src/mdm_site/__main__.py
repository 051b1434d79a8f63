"""The command `mdm-site`: makes and maintains the directory of a site whose services run as containers."""

import argparse
import sys
from pathlib import Path

from mdm_site.containers import PORTS, ContainerSite
from mdm_site.description import describe, describe_instances
from mdm_site.instance import PUBLISHED, port_variable
from mdm_site.site import SITE, SiteError
from mdm_site.upkeep import add_key_encryption_key, add_site, lend, revoke

DEFAULT = Path(".mdm-site")
_INSTANCE_PORTS = "dicom-srm-2=7106, scp-2=11212, curator-2=7110, door-2=7111"


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--site", type=Path, default=DEFAULT, help=f"directory of the site (default: {DEFAULT})")
    root = argparse.ArgumentParser(prog="mdm-site", description="Makes and maintains the directory of a site.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    make = commands.add_parser("init", parents=[common], help="make what is missing: authority, certificates, secrets, configuration")
    make.add_argument("--demo", action="store_true", help="with an Orthanc as PACS and the users alice, carol and mallory")
    make.add_argument("--host", action="append", metavar="NAME", help="name or address at which users reach the services; may be repeated")
    make.add_argument("--port", action="append", type=_port, metavar="NAME=PORT", help=f"port on this host for one of {', '.join(PORTS)}")
    make.add_argument("--project", default="", help=f"name of the compose project (default: mdm, or mdm-NAME if not {SITE})")
    make.add_argument("--name", default=SITE, help=f"name of the site, in paths and SURLs (default: {SITE})")
    make.add_argument("--organisation", default="", help="O= of every certificate of the site (default: its name)")
    commands.add_parser("add-user", parents=[common], help="issue a certificate and a client configuration").add_argument("name")
    other = commands.add_parser(
        "add-site", parents=[common], help="make another site known, or renew its CRL; prints a section for services"
    )
    other.add_argument("name")
    other.add_argument("--certificate", type=Path, required=True, metavar="FILE", help="certificate of its authority")
    other.add_argument("--crl", type=Path, required=True, metavar="FILE", help="revocation list of its authority")
    other.add_argument(
        "--metadata", action="append", default=[], type=_address, metavar="HOST:PORT", help="its metadata service; may be repeated"
    )
    other.add_argument("--organisation", default="", help="O= of its subjects (default: that of its authority)")
    commands.add_parser("revoke", parents=[common], help="revoke a certificate of the site's authority").add_argument("name")
    commands.add_parser("renew", parents=[common], help="renew certificates and CRL that expire within a week")
    commands.add_parser("add-kek", parents=[common], help="put a new key-encryption key before the old ones").add_argument("keystore")
    several = commands.add_parser("instances", parents=[common], help="have so many instances of dicom-srm; the first is that of `init`")
    several.add_argument("count", type=int, choices=range(1, 10), metavar="COUNT")
    several.add_argument("--port", action="append", type=_instance_port, metavar="NAME=PORT", help=f"port on this host: {_INSTANCE_PORTS}")
    lent = commands.add_parser("lend", parents=[common], help="copy a user's identity to where a command in a container can use it")
    lent.add_argument("name")
    lent.add_argument("--to", type=Path, required=True, metavar="DIRECTORY", help="remove it after use")
    commands.add_parser("show", parents=[common], help="show the site as JSON")
    return root


def run(arguments: argparse.Namespace) -> None:
    """Run the parsed command."""
    site = ContainerSite(arguments.site)
    if arguments.command == "init":
        hosts = arguments.host or ["127.0.0.1"]
        site.make(
            demonstration=arguments.demo,
            hosts=hosts,
            ports=dict(arguments.port or ()),
            project=arguments.project,
            name=arguments.name,
            organisation=arguments.organisation,
        )
        print(f"{site.root}: ready; authority of this site: {site.ca.namespace}")
        return
    if not site.environment_file.exists():
        raise SiteError(f"{site.root}: no site here; run `mdm-site init` first")
    if arguments.command == "add-user":
        print(site.add_user(arguments.name))
    elif arguments.command == "add-site":
        given = (arguments.certificate, arguments.crl, arguments.metadata, arguments.organisation)
        print(add_site(site, arguments.name, *given), end="")
    elif arguments.command == "revoke":
        revoke(site, arguments.name)
        print(f"{arguments.name}: revoked; the services refuse it within a minute")
    elif arguments.command == "renew":
        print("\n".join(f"{name}: renewed" for name in site.renew()) or "nothing expires within a week")
        site.hand_over()
    elif arguments.command == "add-kek":
        print(add_key_encryption_key(site, arguments.keystore))
    elif arguments.command == "instances":
        site.set_instances(arguments.count, dict(arguments.port or ()))
        print("\n".join(describe_instances(site)))
    elif arguments.command == "lend":
        print(lend(site, arguments.name, arguments.to))
    else:
        print(describe(site))


def main() -> None:
    """Run the command line."""
    try:
        run(parser().parse_args())
    except SiteError as error:
        sys.exit(f"mdm-site: {error}")


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in PORTS or not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"{text}: NAME=PORT is expected")
    return name, int(number)


def _instance_port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    kind, _, instance = name.rpartition("-")
    variable = f"{kind.upper().replace('-', '_')}"
    if variable not in PUBLISHED or not instance.isdigit() or not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"{text}: NAME=PORT is expected, such as {_INSTANCE_PORTS}")
    return port_variable(variable, int(instance)), int(number)


def _address(text: str) -> str:
    host, _, number = text.rpartition(":")
    if not host or not number.isdigit() or not 0 < int(number) < 65536:
        raise argparse.ArgumentTypeError(f"{text}: HOST:PORT is expected")
    return text


if __name__ == "__main__":
    main()
