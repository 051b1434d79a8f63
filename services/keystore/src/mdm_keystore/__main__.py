"""The keystore's command line: serve, migrate, check-config."""

from mdm_service.process.main import Runtime, run

from mdm_keystore.composition import compose
from mdm_keystore.config import KeystoreSettings
from mdm_keystore.rules.seal import Sealer

MIGRATIONS = ("mdm_service.acl_migrations", "mdm_keystore.migrations")


def build(settings: KeystoreSettings, runtime: Runtime) -> None:
    """Compose the service on its store and register it."""
    keystore = compose(settings.keystore, settings.tls, runtime.database, Sealer.from_file(settings.keystore.kek_file))
    for name in keystore.register(runtime.server, runtime.database):
        runtime.add_service(name)
    keystore.start()
    runtime.on_stop(keystore.stop)


def main() -> None:
    """Run the command line."""
    run("keystore", KeystoreSettings, build, migrations=MIGRATIONS)


if __name__ == "__main__":
    main()
