"""The delegations that users have revoked, and the service by which they do."""

import re
from datetime import UTC, datetime, timedelta

import grpc
from mdm.delegation.v1 import delegation_pb2, delegation_pb2_grpc
from mdm_wire.errors import Exhausted, Invalid
from psycopg_pool import ConnectionPool

from mdm_service.identity.caller import current_caller

FULL_NAME = "mdm.delegation.v1.DelegationService"
MIGRATIONS = "mdm_service.delegation_migrations"
#: Of one user, among those that have not expired.
MOST_REVOKED = 10_000
_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Revocations:
    """Revoked delegations in PostgreSQL. One is named by its user and its id, so nobody can revoke another's."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def is_revoked(self, user: str, delegation_id: str) -> bool:
        """Return whether a user has revoked a delegation."""
        with self._pool.connection() as connection:
            found = connection.execute("SELECT FROM revoked_delegation WHERE user_dn = %s AND id = %s", (user, delegation_id)).fetchone()
        return found is not None

    def revoke(self, user: str, delegation_id: str, expires: datetime) -> None:
        """Revoke a delegation for good; again is harmless. Those that have expired anyway are forgotten.

        Raises:
            Exhausted: this user has revoked too many that have not expired.
        """
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM revoked_delegation WHERE expire_time < now() - interval '1 hour'")
            others = "SELECT count(*) FROM revoked_delegation WHERE user_dn = %s AND id <> %s"
            row = connection.execute(others, (user, delegation_id)).fetchone()
            if row is not None and row[0] >= MOST_REVOKED:
                raise Exhausted("TOO_MANY_REVOCATIONS", f"At most {MOST_REVOKED:,} delegations can be revoked at a time.")
            connection.execute(
                "INSERT INTO revoked_delegation (user_dn, id, expire_time) VALUES (%s, %s, %s)"
                " ON CONFLICT (user_dn, id) DO UPDATE SET expire_time = greatest(revoked_delegation.expire_time, excluded.expire_time)",
                (user, delegation_id, expires),
            )


class DelegationServicer(delegation_pb2_grpc.DelegationServiceServicer):
    """Lets users end what they have delegated; a token lives at most `max_seconds`."""

    def __init__(self, revocations: Revocations, max_seconds: int) -> None:
        self._revocations = revocations
        self._longest = timedelta(seconds=max_seconds)

    def RevokeDelegation(
        self, request: delegation_pb2.RevokeDelegationRequest, context: grpc.ServicerContext
    ) -> delegation_pb2.RevokeDelegationResponse:
        """Refuse a delegation of the caller's from now on.

        Raises:
            Invalid: DELEGATION_ID_MALFORMED.
        """
        if not _ID.fullmatch(request.id):
            raise Invalid("DELEGATION_ID_MALFORMED", "Not the id of a delegation: mdm delegate ls shows them.")
        # Without the token its end is not known; no token of today lives longer than this.
        self._revocations.revoke(current_caller().dn, request.id, datetime.now(UTC) + self._longest + timedelta(hours=1))
        return delegation_pb2.RevokeDelegationResponse()


def add_delegation_service(server: grpc.Server, revocations: Revocations, max_seconds: int) -> None:
    """Register DelegationService on `server`."""
    delegation_pb2_grpc.add_DelegationServiceServicer_to_server(DelegationServicer(revocations, max_seconds), server)
