"""The `mdm` command of one user, run in this process against a metadata service alone."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from mdm_client.cli import main


def configuration(pki: Any, user: str, port: int, folder: Path, sites: Mapping[str, int] | None = None) -> Path:
    """Write and return the client's configuration of a user; `sites` are ports by name. There is neither catalog nor keystore."""
    own = pki.issue(pki.subject(user))
    path = folder / f"{user}-{port}.toml"
    named = "".join(f'{name} = ["127.0.0.1:{other}"]\n' for name, other in (sites or {}).items())
    path.write_text(
        f'certificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{own.ca}"\nthreshold = 2\n'
        f'catalog = ["127.0.0.1:1"]\nmetadata = ["127.0.0.1:{port}"]\n'
        '[[keystores]]\nname = "a"\nindex = 1\naddresses = ["127.0.0.1:1"]\n'
        '[[keystores]]\nname = "b"\nindex = 2\naddresses = ["127.0.0.1:1"]\n' + (f"[metadata_sites]\n{named}" if named else "")
    )
    return path


class Mdm:
    """Runs commands as one would type them; `typed` keeps them."""

    def __init__(self, configured: Path, dn: str, typed: list[str]) -> None:
        self.configured = configured
        self.dn = dn
        self.typed = typed

    def __call__(self, command: str) -> Any:
        """Run a command that must succeed; return the JSON lines it prints."""
        done = self._run(command)
        assert done.exit_code == 0, (command, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def refused(self, command: str) -> list[str]:
        """Run a command that must fail, and return the reason of each error it tells."""
        done = self._run(command)
        assert done.exit_code != 0, (command, done.stdout)
        return [json.loads(line)["reason"] for line in done.stderr.splitlines()]

    def _run(self, command: str) -> Any:
        self.typed.append(command)
        program, *arguments = shlex.split(command)
        assert program == "mdm"
        return CliRunner().invoke(main, ["--config", str(self.configured), "--json", *arguments])
