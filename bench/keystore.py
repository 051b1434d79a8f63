"""Splits and combines keys beside pyshamir and PyCryptodome; reads, loses and refreshes keys of three real keystores.

Splitting: a secret of 32 bytes, 2 of 3 and 3 of 5, single thread, ways in turn, after a round that warms up.

- libgfshare (Debian): compiled C; Shamir over GF(2⁸) byte by byte, which is also what Vault does; called here through ctypes, with
  randomness from the kernel;
- PyCryptodome: Python with compiled parts, GF(2¹²⁸), 16 bytes at a time, so that two splits make one of ours;
- pyshamir: Vault's algorithm in pure Python.

None of them can tell a wrong share: `mdm` proves each combination against the key's public commitment, which costs curve arithmetic
(libsodium), and `mdm verified` checks every share by itself besides. Keystores: three processes with three databases of one PostgreSQL
that waits for its disk, mutual TLS, client and all on this machine. "Raw" selects the rows by SQL alone, from one database.

Run: python bench/keystore.py [--rounds 3] [--keys 2000]
"""

import argparse
import ctypes
import ctypes.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from Crypto.Protocol.SecretSharing import Shamir
from mdm_crypto import shamir
from mdm_local.postgres import PostgresServer
from mdm_site.pki import DevelopmentCa
from mdm_testing import machine
from mdm_testing.keystore import NAMES, KeystoreProcesses
from mdm_wire.errors import MdmError
from pyshamir import combine as pyshamir_combine
from pyshamir import split as pyshamir_split

BATCH = 500
Splitting = tuple[Callable[[], object], Callable[[], object]]


class Gfshare:
    """libgfshare: splitting and combining of 32 bytes."""

    def __init__(self, threshold: int, total: int) -> None:
        self._library = library = ctypes.CDLL(ctypes.util.find_library("gfshare"))
        library.gfshare_ctx_init_enc.restype = library.gfshare_ctx_init_dec.restype = ctypes.c_void_p
        random = ctypes.c_void_p.in_dll(library, "gfshare_fill_rand")
        random.value = ctypes.cast(ctypes.CDLL(None).getentropy, ctypes.c_void_p).value
        self._numbers, self._threshold = bytes(range(1, total + 1)), threshold
        self._encoder = ctypes.c_void_p(library.gfshare_ctx_init_enc(self._numbers, total, threshold, 32))
        self._decoder = ctypes.c_void_p(library.gfshare_ctx_init_dec(self._numbers[:threshold], threshold, 32))
        self._share, self._secret = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)

    def split(self, secret: bytes) -> list[bytes]:
        """Return the shares of a secret."""
        library, share, shares = self._library, self._share, []
        library.gfshare_ctx_enc_setsecret(self._encoder, secret)
        for number in range(len(self._numbers)):
            library.gfshare_ctx_enc_getshare(self._encoder, number, share)
            shares.append(share.raw)
        return shares

    def combine(self, shares: list[bytes]) -> bytes:
        """Return the secret of the first shares, as many as are needed."""
        for number, share in enumerate(shares[: self._threshold]):
            self._library.gfshare_ctx_dec_giveshare(self._decoder, number, share)
        self._library.gfshare_ctx_dec_extract(self._decoder, self._secret)
        return self._secret.raw


def ways(threshold: int, total: int) -> dict[str, Splitting]:
    """Return splitting and combining of one secret by way."""
    secret, guid = shamir.random_scalar(), uuid4()
    shares = shamir.split(secret, threshold, total, guid)[:threshold]
    parts = pyshamir_split(secret, total, threshold)[:threshold]
    halves = [Shamir.split(threshold, total, half)[:threshold] for half in (secret[:16], secret[16:])]

    def verified() -> bytes:
        for share in shares:
            shamir.check(share)
        return shamir.combine(shares)

    def by_halves() -> bytes:
        return b"".join(Shamir.combine(half) for half in halves)

    assert secret == verified() == bytes(pyshamir_combine(parts)) == by_halves()
    found = {
        "mdm": (lambda: shamir.split(secret, threshold, total, guid), lambda: shamir.combine(shares)),
        "mdm verified": (lambda: shamir.split(secret, threshold, total, guid), verified),
        "pyshamir (pure Python)": (lambda: pyshamir_split(secret, total, threshold), lambda: pyshamir_combine(parts)),
        "PyCryptodome": (lambda: [Shamir.split(threshold, total, half) for half in (secret[:16], secret[16:])], by_halves),
    }
    if ctypes.util.find_library("gfshare"):
        compiled = Gfshare(threshold, total)
        pieces = compiled.split(secret)
        assert compiled.combine(pieces) == secret
        found["libgfshare (C)"] = (lambda: compiled.split(secret), lambda: compiled.combine(pieces))
    else:
        print("libgfshare is not installed (Debian: libgfshare2): not measured")
    return found


def rate(action: Callable[[], object], seconds: float = 0.2) -> float:
    """Return how many times an action can be done in a second of this process's processor time."""
    count, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        action()
        count += 1
    return count / spent


def split_and_combine(rounds: int) -> None:
    for threshold, total in ((2, 3), (3, 5)):
        rates: dict[str, list[tuple[float, float]]] = {}
        for number in range(rounds + 1):
            for name, (split, combine) in ways(threshold, total).items():
                measured = rate(split), rate(combine)
                if number:
                    rates.setdefault(name, []).append(measured)
        medians = {name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in rates.items()}
        print(f"\n{f'{threshold} of {total}':24} {'split/s':>10} {'mdm to it':>10} {'combine/s':>10} {'mdm to it':>10}")
        for name, (split, combine) in medians.items():
            ratios = [ours / theirs for ours, theirs in zip(medians["mdm"], (split, combine), strict=True)]
            print(f"{name:24} {split:10.0f} {ratios[0]:10.3f} {combine:10.0f} {ratios[1]:10.3f}")


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def read(keystores: KeystoreProcesses, keys: dict[UUID, bytes], warm: bool) -> float:
    """Return seconds of reading 500 keys with a client that has connections, or one that has asked nothing yet."""
    client, guids = keystores.client(), list(keys)
    if warm:
        client.get_keys(guids[:1])
    return timed(lambda: _check(client.get_keys(guids), keys))


def _check(answers: dict[UUID, bytes | MdmError], keys: dict[UUID, bytes]) -> None:
    assert answers == keys


def raw(keystores: KeystoreProcesses, keys: dict[UUID, bytes]) -> float:
    """Return seconds of selecting the same rows from one database."""
    with psycopg.connect(keystores.conninfos["a"]) as connection:
        connection.execute("SELECT 1")
        return timed(lambda: connection.execute("SELECT * FROM key_share WHERE guid = ANY (%s)", (list(keys),)).fetchall())


def reading(keystores: KeystoreProcesses, rounds: int) -> None:
    keys = keystores.create(keystores.client(), BATCH)
    rows: dict[str, list[float]] = {
        "raw SQL, one database": [],
        "2 of 3, connected": [],
        "2 of 3, new client": [],
        "one hung, first read": [],
    }
    for number in range(rounds):
        rows["raw SQL, one database"].append(raw(keystores, keys))
        rows["2 of 3, connected"].append(read(keystores, keys, warm=True))
        rows["2 of 3, new client"].append(read(keystores, keys, warm=False))
        hung = NAMES[number % 3]
        keystores.freeze(hung)
        rows["one hung, first read"].append(max(read(keystores, keys, warm=False) for _ in range(3)))
        keystores.thaw(hung)
    print(f"\n{'500 keys over mTLS':24} {'seconds':>8} {'to raw':>8}")
    base = statistics.median(rows["raw SQL, one database"])
    for name, values in rows.items():
        print(f"{name:24} {statistics.median(values):8.3f} {statistics.median(values) / base:8.1f}")


def refreshing(keystores: KeystoreProcesses, count: int) -> None:
    client, operator = keystores.client(), keystores.operator()
    created = timed(lambda: keystores.create(client, count))

    def job(begin: Callable[[], object]) -> float:
        begun = begin()
        seconds = timed(lambda: operator.wait("a", UUID(begun.id), pause=0.1))  # type: ignore[attr-defined]
        ended = operator.resharing("a")
        assert ended.keys_done >= count, (ended.keys_done, ended.keys_failed)
        return seconds

    refreshed = job(lambda: operator.refresh("a"))
    keystores.sql("c", "TRUNCATE acl CASCADE")
    repaired = job(lambda: operator.repair(["c"], "a"))
    print(f"\n{f'{count} keys':24} {'seconds':>8} {'keys/s':>8}")
    for name, seconds in (("create and read", created), ("refresh", refreshed), ("repair of one", repaired)):
        print(f"{name:24} {seconds:8.1f} {count / seconds:8.0f}")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=2_000)
    arguments = parser.parse_args()
    print(f"{machine.state()}; {machine.versions(['pyshamir', 'pycryptodome', 'pynacl', 'mdm-crypto'])}")
    split_and_combine(arguments.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = PostgresServer(folder / "postgres")
        server.start()
        try:
            conninfos = [server.create_database(f"bench_{letter}") for letter in NAMES]
            keystores = KeystoreProcesses(DevelopmentCa(folder / "pki"), conninfos, folder)
            try:
                reading(keystores, arguments.rounds)
                refreshing(keystores, arguments.keys)
            finally:
                keystores.close()
            print(f"load {machine.load()} at the end")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
