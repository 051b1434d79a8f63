"""Two hospitals: B copies A's anonymous metadata, and each has a collection of the same schema."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mdm_client.config import ClientConfig
from mdm_testing.compose_stack import ComposeStack
from mdm_testing.local_stack import LocalStack
from mdm_testing.stack import Mdm, Result, Stack

SUBTREE, IMAGES, PATIENTS = "/biomed/hospital-a", "/biomed/hospital-a/images", "/biomed/hospital-a/patients"
ATTRIBUTES = ("Kind:varchar(8)", "Rows:int", "Dose:numeric", "Day:date")


@dataclass
class Site:
    """One of the two hospitals, and commands of its own users or the other's."""

    stack: Stack
    mdm: Mdm

    def run(self, user: str, *arguments: str, config: Path | None = None) -> Result:
        """Run a command that must succeed."""
        result = self.mdm(user, *arguments, config=config)
        assert result.code == 0, (arguments, result.err)
        return result

    def rows(self, query: str, user: str = "alice") -> list[dict[str, Any]] | None:
        """Return the rows of a query, None while it fails."""
        result = self.mdm(user, "--json", "query", query)
        return result.rows() if result.code == 0 else None

    def replica(self) -> dict[str, Any]:
        """Return the state of the site's copy, as its operator sees it."""
        return self.mdm("operator", "--json", "meta", "replica").rows()[0]

    def is_current(self) -> bool:
        """Return whether the site's copy follows its origin without delay."""
        state = self.replica()
        return state["behind"] == 0 and state["lag_seconds"] < 10 and not state["problem"]

    def configuration(self, user: str, certificate: Path, key: Path) -> Path:
        """Return a configuration of this site for the holder of a certificate."""
        text = self.stack.client_config("alice").read_text()
        ca = ClientConfig.load(self.stack.client_config("alice")).tls.ca
        lines = [line for line in text.splitlines() if not line.startswith(("certificate =", "key =", "ca ="))]
        file = self.mdm.scratch / f"{self.stack.name}-{user}.toml"
        file.write_text("\n".join([f'certificate = "{certificate}"', f'key = "{key}"', f'ca = "{ca}"', *lines]))
        return file

    def service(self, name: str) -> Path:
        """Return a client configuration under a service's own certificate."""
        place = self.stack.authority.directory
        return self.configuration(name, place / f"{name}.crt", place / f"{name}.key")

    def dn(self, user: str) -> str:
        """Return a user's DN."""
        return str(self.run(user, "--json", "whoami").rows()[0]["dn"])

    def join(self, group: str, member: str) -> None:
        """Add a user to a group."""
        file = self.stack.trust_directory / "groups.toml"
        text = file.read_text()
        assert f'"{group}" = [' in text
        file.write_text(text.replace(f'"{group}" = [', f'"{group}" = ["{member}", '))

    def leave(self, group: str, member: str) -> None:
        """Remove a user from a group again."""
        file = self.stack.trust_directory / "groups.toml"
        file.write_text(file.read_text().replace(f'"{group}" = ["{member}", ', f'"{group}" = ['))


@pytest.fixture(scope="package")
def sites(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site]]:
    """Hospital A, which has everything, and hospital B, which has metadata only, copies A's, and has some of its own."""
    directory = tmp_path_factory.mktemp("second")
    kind = ComposeStack if isinstance(stack, ComposeStack) else LocalStack
    second: Stack = kind(directory, "hospital-b", small=True)
    try:
        second.up()
        second.couple(stack)
        scratch = tmp_path_factory.mktemp("scratch")
        yield Site(stack, Mdm(stack, scratch)), Site(second, Mdm(second, scratch))
    finally:
        second.down()


@dataclass
class CollectionPair:
    """A collection of the same schema at each site: A's lies in the subtree that B copies."""

    a: Site
    b: Site
    name: str

    @property
    def path(self) -> str:
        """A's collection, at A and, copied, at B."""
        return f"{SUBTREE}/{self.name}"

    @property
    def over_both(self) -> str:
        """The collection of each site, in a query over sites."""
        return f"/biomed/{{site}}/{self.name}"

    def set(self, key: str, *values: str) -> None:
        """Make or change an entry at A."""
        self.a.run("alice", "meta", "entry", "set", self.path, key, *values)

    def same(self) -> bool:
        """Return whether the copy equals the original."""
        query = f'SELECT * FROM "{self.path}" ORDER BY entry'
        original = self.a.rows(query)
        return original is not None and self.b.rows(query) == original

    def over_sites(self, query: str, *, site: Site | None = None, user: str = "alice", sites: str = "hospital-a,hospital-b") -> Result:
        """Ask both sites at once."""
        return (site or self.a).mdm(user, "--json", "query", "--sites", sites, query.replace("BOTH", f'"{self.over_both}"'))


@pytest.fixture(scope="package")
def pair(sites: tuple[Site, Site]) -> CollectionPair:
    """Collections that /biomed/neuro reads at either site, and that each site's alice writes at hers."""
    a, b = sites
    found = CollectionPair(a, b, f"pair-{uuid4().hex[:8]}")
    for site, owner in ((a, a.service("dicom-srm")), (b, b.stack.client_config("operator"))):
        acl = _acl(site, owner, "group:/biomed/neuro=rl", f"dn:{site.dn('alice')}=rwlsd")
        visible = _acl(site, owner, "authenticated=r", "group:/biomed/neuro=rl", f"dn:{site.dn('alice')}=rwlsd")
        path = f"/biomed/{site.stack.name}/{found.name}"
        more = ("Length:int", "Gone:text") if site is a else ()
        site.run("", "meta", "mkdir", "-p", path, *ATTRIBUTES, *more, "--acl", visible, "--default-acl", acl, config=owner)
    return found


def _acl(site: Site, owner: Path, *entries: str) -> str:
    return site.run("", "meta", "acl", "create", *entries, config=owner).out.strip()
