"""Bringing a stack up and down, and stopping or starting single components of it."""

import importlib
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from mdm_service import database
from mdm_service.settings import ConfigurationError
from mdm_site.site import DICOM_SRM, GRID, SITE, Service, SiteError, check_names

from mdm_local import component, process
from mdm_local.component import Launcher
from mdm_local.configuration import Configuration, make_credentials
from mdm_local.layout import ALL_SERVICES, BY_NAME, COMPONENTS, FORWARDER, HOST, LISTENERS, PACS, POSTGRES, SECOND_SRM, Layout
from mdm_local.pacs.kind import ARCHIVE, NONE, ORTHANC, StackPacs, choose, of_kind
from mdm_local.postgres import PostgresServer
from mdm_local.process import ProcessRecord
from mdm_local.state import Coupling, State, locked

_GRACE_SECONDS = 15.0
_HEALTH_SECONDS = 180.0


class Stack:
    """The stack of one data directory. `report` receives each step, one line of text."""

    def __init__(self, layout: Layout, report: Callable[[str], None] = lambda _: None) -> None:
        self.layout = layout
        self.postgres = PostgresServer(layout.root)
        self.state = State.load(layout.state_file)
        self._report = report

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that this stack runs."""
        wanted = set(self.state.only or BY_NAME) - (set() if self.state.instances > 1 else {SECOND_SRM.name})
        return tuple(service for service in ALL_SERVICES if service.name in wanted)

    @property
    def components(self) -> tuple[str, ...]:
        """Everything that this stack runs, in the order of starting."""
        absent = {ORTHANC: set(), ARCHIVE: {FORWARDER}, NONE: {PACS, FORWARDER}}[self.state.pacs_kind or ORTHANC]
        absent |= BY_NAME.keys() - {service.name for service in self.services}
        return tuple(name for name in COMPONENTS if name not in absent)

    @property
    def pacs(self) -> StackPacs:
        """The stack's PACS; of the kind NONE if it has none.

        Raises:
            SiteError: the stack was never up.
        """
        if not self.state.pacs_kind:
            raise SiteError(f"{self.layout.root}: no stack here; run `mdm-local up` first")
        return of_kind(self.state.pacs_kind, self.state.ports, self.layout.secret("pacs-password"))

    def log_of(self, name: str) -> Path:
        """Return the path of a component's log. The PACS log stays next to its storage because it may contain patient names."""
        if name == POSTGRES:
            return self.postgres.log
        return self.layout.pacs / f"{name}.log" if name == PACS else self.layout.log(name)

    def pid_of(self, name: str) -> int | None:
        """Return the pid of a running component, or None."""
        if name == POSTGRES:
            return self.postgres.pid
        record = self.state.running(name)
        return record.pid if record else None

    def health_of(self, name: str) -> str:
        """Return serving, not serving, or down."""
        if self.pid_of(name) is None:
            return component.DOWN
        if name == PACS:
            return component.health_of_pacs(self.pacs)
        if name in BY_NAME:
            return component.health_of_service(self.layout, f"{HOST}:{self.state.ports[name]}")
        return component.SERVING

    def up(self, pacs_kind: str = "auto", name: str = "", only: Collection[str] = (), instances: int = 0) -> None:
        """Make missing files, start components that do not run, and return when all are healthy.

        A new stack gets a site's `name`, and runs all services or `only` some of those that need no others. `instances` of dicom-srm: one
        or two; 0: as it was.

        Raises:
            SiteError: a component does not start; the message names its log. Running components stay up.
        """
        self.layout.make()
        with self._locked():
            self.state.instances = instances or self.state.instances
            self._prepare(pacs_kind, name, only)
            self._start([POSTGRES])
            for service in self.services:
                self.postgres.create_database(service.database)
            self._write_configuration()
            self._spawn([PACS])
            missing = [service for service in self.services if self.state.running(service.name) is None]
            if missing:
                self._report("migrating databases")
                self._migrate(missing)
            self._start([PACS, *(service.name for service in GRID)])
            self._start([DICOM_SRM.name, SECOND_SRM.name, FORWARDER])

    def down(self) -> None:
        """Stop every running component by its recorded process id."""
        if not self.layout.lock_file.exists():
            return
        with self._locked():
            for names in ([FORWARDER], [DICOM_SRM.name, SECOND_SRM.name], [service.name for service in GRID], [PACS], [POSTGRES]):
                self._stop(names)

    def purge(self) -> None:
        """Remove the data directory of a stack that is down.

        Raises:
            SiteError: it is not a stack's data directory, or something of it runs.
        """
        if not self.layout.root.exists():
            return
        if not self.layout.lock_file.exists():
            raise SiteError(f"{self.layout.root}: not a data directory of mdm-local; nothing is removed")
        running = [name for name in COMPONENTS if self.pid_of(name) is not None]
        if running:
            raise SiteError(f"{self.layout.root}: {running[0]} is still running; nothing is removed")
        shutil.rmtree(self.layout.root)

    def start(self, name: str) -> None:
        """Start one component again, on the ports it had, and wait until it is healthy."""
        with self._changing(name):
            self._write_configuration()  # a coupled stack may have appeared or disappeared since
            self._start([name])

    def stop(self, name: str) -> None:
        """Stop one component gracefully."""
        with self._changing(name):
            self._stop([name])

    def kill(self, name: str) -> None:
        """End one component at once, as a crash would (SIGKILL)."""
        with self._changing(name):
            pid = self.pid_of(name)
            record = ProcessRecord.of(pid) if pid is not None else None
            if record is not None:
                self._report(f"killing {name}")
                process.kill(record)
            self._forget([name])

    def couple(self, name: str, other: Coupling) -> None:
        """Add or update another stack that this one knows: its users, and copies of metadata. Restarts the metadata service.

        Raises:
            SiteError: this stack has no metadata service.
        """
        with self._changing("metadata"):
            before = self.state.others.get(name, other)
            copies_us, copied_here = before.copies_us or other.copies_us, before.copied_here or other.copied_here
            self.state.others[name] = Coupling(other.data_dir, copies_us, copied_here)
            self.state.save(self.layout.state_file)
            self._write_configuration()
            if self.pid_of("metadata") is not None:
                self._stop(["metadata"])
                self._start(["metadata"])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.layout.lock_file):
            self.state = State.load(self.layout.state_file)
            yield

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        if not self.layout.lock_file.exists() or not self.state.pacs_kind:
            raise SiteError(f"{self.layout.root}: no stack here; run `mdm-local up` first")
        if name not in self.components:
            raise SiteError(f"{name}: this stack has no such component")
        with self._locked():
            yield

    def _prepare(self, pacs_kind: str, name: str, only: Collection[str]) -> None:
        self._set_identity(pacs_kind, name, only)
        running = {name for name in COMPONENTS if self.state.running(name)}
        busy = {listener for listener, owner in LISTENERS.items() if owner in running}
        self.state.ports = process.allocate_ports(LISTENERS, self.state.ports, busy)
        self.state.save(self.layout.state_file)
        make_credentials(self.layout, self.state.organisation)

    def _set_identity(self, pacs_kind: str, name: str, only: Collection[str]) -> None:
        """Set name, services and PACS of a new stack; refuse to change those of an existing one."""
        state = self.state
        present = {"PACS": state.pacs_kind, "name": state.name, "services": ", ".join(state.only) or "all"}
        wanted = {"PACS": pacs_kind.replace("auto", ""), "name": name, "services": ", ".join(sorted(only))}
        for what in present:
            if state.pacs_kind and wanted[what] not in ("", present[what]):
                raise SiteError(f"{self.layout.root}: this stack has the {what} {present[what]}; `mdm-local down --purge` first")
        if not state.pacs_kind:
            check_names(name or SITE, name or SITE)
            state.name, state.only = name or SITE, sorted(only)
        if state.only:
            state.pacs_kind = NONE
        elif state.pacs_kind in (ORTHANC, ""):
            state.pacs_kind = choose(state.pacs_kind or pacs_kind)

    def _write_configuration(self) -> None:
        Configuration(self.layout, self.state, self.pacs, lambda name: self.postgres.conninfo(name, name)).write()

    def _start(self, names: Sequence[str]) -> None:
        """Start those components that do not run, then wait until all of them are healthy."""
        wanted = [name for name in names if name in self.components]
        self._spawn(wanted)
        for name in wanted:
            self._await_health(name)

    def _spawn(self, names: Iterable[str]) -> None:
        launcher = Launcher(self.layout, self.state.ports, self.pacs)
        for name in names:
            if name not in self.components or self.pid_of(name) is not None:
                continue
            self._report(f"starting {name}")
            if name == POSTGRES:
                self._start_postgres()
            else:
                self.state.processes[name] = process.spawn(launcher.command(name), self.log_of(name), launcher.environment())
                self.state.save(self.layout.state_file)

    def _migrate(self, services: Iterable[Service]) -> None:
        """Migrate the databases of all services in this process: six `migrate` commands would take seconds longer."""
        for service in services:
            components = importlib.import_module(f"{service.module}.__main__").MIGRATIONS
            try:
                database.migrate(self.postgres.conninfo(service.database, service.database), components)
            except (ConfigurationError, psycopg.Error) as error:
                raise SiteError(f"{service.name}: its database cannot be migrated: {str(error).splitlines()[0]}") from error

    def _start_postgres(self) -> None:
        try:
            self.postgres.start()
        except RuntimeError as error:
            raise SiteError(str(error)) from error

    def _await_health(self, name: str) -> None:
        deadline = time.monotonic() + _HEALTH_SECONDS
        while (state := self.health_of(name)) != component.SERVING:
            log = self.log_of(name)
            if state == component.DOWN:
                self._forget([name])
                raise SiteError(f"{name} exited while starting: {_last_line(log)} (log: {log})")
            if time.monotonic() > deadline:
                raise SiteError(f"{name} did not become healthy within {_HEALTH_SECONDS:.0f} s: {_last_line(log)} (log: {log})")
            time.sleep(0.1)

    def _stop(self, names: Iterable[str]) -> None:
        running = [name for name in names if self.pid_of(name) is not None]
        for name in running:
            self._report(f"stopping {name}")
        if POSTGRES in running:
            self.postgres.stop()
        records = {name: self.state.processes[name] for name in running if name != POSTGRES}
        killed = process.end(list(records.values()), _GRACE_SECONDS)
        for name, record in records.items():
            if record in killed:
                self._report(f"{name} did not end within {_GRACE_SECONDS:.0f} s and was killed")
        self._forget(names)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.state.processes.pop(name, None)
        self.state.save(self.layout.state_file)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it logged nothing"
