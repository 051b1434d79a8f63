"""Parts that helpers have sent to this target, sealed, in PostgreSQL: whichever process adds them up finds what others took."""

from collections.abc import Mapping
from uuid import UUID

from mdm.keystore.v1 import peer_pb2
from psycopg_pool import ConnectionPool

from mdm_keystore.peer import message
from mdm_keystore.rules.resharing.model import Parts
from mdm_keystore.rules.seal import SealBroken, Sealer

_MAX_ROUNDS = 8


class PostgresParts:
    """The parts in one keystore's database, sealed as shares are. They are lost when PostgreSQL crashes, and not in its log."""

    def __init__(self, pool: ConnectionPool, sealer: Sealer) -> None:
        self._pool = pool
        self._sealer = sealer

    def put(self, parts: Parts) -> None:
        """Keep a helper's parts; of too many rounds the oldest is forgotten."""
        sealed, kek_id = self._sealer.seal_parts(message.parts_to_proto(parts).SerializeToString(), parts.round_id, parts.helper)
        with self._pool.connection() as connection:
            connection.execute(
                """INSERT INTO share_part (round_id, helper, sealed, kek_id) VALUES (%s, %s, %s, %s)
                   ON CONFLICT (round_id, helper) DO UPDATE SET sealed = excluded.sealed, kek_id = excluded.kek_id""",
                (parts.round_id, parts.helper, sealed, kek_id),
            )
            connection.execute(
                """DELETE FROM share_part WHERE round_id IN
                       (SELECT round_id FROM share_part GROUP BY round_id ORDER BY min(number) DESC OFFSET %s)""",
                (_MAX_ROUNDS,),
            )

    def of(self, round_id: UUID) -> Mapping[int, Parts]:
        """Return a round's parts by helper; those that do not open any more count as lost."""
        with self._pool.connection() as connection:
            rows = connection.execute("SELECT helper, sealed, kek_id FROM share_part WHERE round_id = %s", (round_id,)).fetchall()
        found = {}
        for helper, sealed, kek_id in rows:
            try:
                opened = self._sealer.open_parts(sealed, kek_id, round_id, helper)
            except SealBroken:
                continue
            found[helper] = message.parts_from_proto(peer_pb2.TakeSubsharesRequest.FromString(opened))
        return found

    def forget(self, round_id: UUID) -> None:
        """Drop a round's parts."""
        with self._pool.connection() as connection:
            connection.execute("DELETE FROM share_part WHERE round_id = %s", (round_id,))
