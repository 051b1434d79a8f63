"""The metadata service."""

from functools import partial

from mdm.metadata.v1 import feed_pb2_grpc, metadata_pb2_grpc
from mdm_service.access.servicer import FULL_NAME as ACL_SERVICE
from mdm_service.access.servicer import add_acl_service
from mdm_service.process.main import Runtime, run
from mdm_service.process.target import Target, service_target
from mdm_service.settings import TlsSettings

from mdm_metadata.config import MetadataSettings, ReplicaSettings
from mdm_metadata.feed.subscription import Subscription
from mdm_metadata.rpc.feed_servicer import FULL_NAME as FEED_SERVICE
from mdm_metadata.rpc.feed_servicer import FeedServicer
from mdm_metadata.rpc.servicer import FULL_NAME, MetadataServicer
from mdm_metadata.store import PostgresStore, session
from mdm_metadata.store.acl import MetadataAclUses
from mdm_metadata.store.backfill import Recovery
from mdm_metadata.store.feed_copy import list_replicas, remove_others
from mdm_metadata.store.feed_origin import FeedOrigin
from mdm_metadata.store.session import QueryLimits

MIGRATIONS = ("mdm_service.acl_migrations", "mdm_service.delegation_migrations", "mdm_metadata.migrations")


def build(settings: MetadataSettings, runtime: Runtime) -> None:
    """Register MetadataService and AclService."""
    limits = QueryLimits(settings.query.statement_seconds, settings.query.max_rows)
    pool = runtime.database
    assert settings.database is not None  # else there would be no pool
    reading = session.open_pool(settings.database, limits)
    runtime.on_stop(reading.close)
    store = PostgresStore(pool, reading, limits)
    store.ensure_root(settings.root.acl())
    metadata_pb2_grpc.add_MetadataServiceServicer_to_server(MetadataServicer(store, runtime.authenticator), runtime.server)
    recovery = Recovery(store)
    recovery.start()
    runtime.on_stop(recovery.stop)
    add_acl_service(runtime.server, runtime.database, MetadataAclUses(), runtime.authenticator)
    subscribers = settings.feed.subtrees_by_subject()
    origin = FeedOrigin(runtime.database)
    origin.configure({path for paths in subscribers.values() for path in paths}, settings.feed.keep_days)
    feed = FeedServicer(origin, partial(list_replicas, runtime.database), subscribers, runtime.service_server.stopping)
    feed_pb2_grpc.add_MetadataFeedServiceServicer_to_server(feed, runtime.server)
    runtime.add_service(FULL_NAME)
    runtime.add_service(ACL_SERVICE)
    runtime.add_service(FEED_SERVICE)
    remove_others(runtime.database, settings.copied())
    for replica in settings.replicas:
        for subtree in replica.subtrees:
            subscription = Subscription(runtime.database, replica.origin, replica.addresses, subtree, _tls(settings, replica))
            subscription.start()
            runtime.on_stop(subscription.stop)


def targets(settings: MetadataSettings, seconds: float) -> list[Target]:
    """Return the metadata services that this one copies from, for `check-config --connect`."""
    return [
        service_target(f"origin {replica.origin}", address, _tls(settings, replica), seconds)
        for replica in settings.replicas
        for address in replica.addresses
    ]


def _tls(settings: MetadataSettings, replica: ReplicaSettings) -> TlsSettings:
    """Return the TLS files for calls of an origin, which may have to be certified by one particular authority."""
    return settings.tls.model_copy(update={"ca": replica.ca or settings.tls.ca})


def main() -> None:
    """Run the command line."""
    run("metadata", MetadataSettings, build, MIGRATIONS, targets)


if __name__ == "__main__":
    main()
