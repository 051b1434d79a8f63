"""The keystore's command line: serve, migrate, check-config."""

from mdm_service.process.main import Runtime, run
from mdm_service.process.target import Target, service_target

from mdm_keystore.composition import compose
from mdm_keystore.config import KeystoreSettings
from mdm_keystore.rules.seal import Sealer

MIGRATIONS = ("mdm_service.acl_migrations", "mdm_service.delegation_migrations", "mdm_keystore.migrations")


def build(settings: KeystoreSettings, runtime: Runtime) -> None:
    """Compose the service on its store and register it."""
    keystore = compose(settings.keystore, settings.tls, runtime.database, Sealer.from_file(settings.keystore.kek_file))
    for name in keystore.register(runtime.server, runtime.database, runtime.authenticator):
        runtime.add_service(name)
    keystore.start()
    runtime.on_stop(keystore.stop)


def targets(settings: KeystoreSettings, seconds: float) -> list[Target]:
    """Return the other keystores, for `check-config --connect`."""
    return [service_target(f"keystore {peer.index}", peer.address, settings.tls, seconds) for peer in settings.keystore.peers]


def main() -> None:
    """Run the command line."""
    run("keystore", KeystoreSettings, build, MIGRATIONS, targets)


if __name__ == "__main__":
    main()
