"""Encrypts and decrypts one large file, beside age (pyrage) and crypt4gh in the same run.

Each round takes every way in turn, from a file to a file in a memory-backed folder where there is one, so that no disk is measured;
"copy" reads and writes the same bytes and does nothing else. Ours is the SDK's `filecipher`, a key given: what `mdm encrypt` and
`mdm decrypt` do behind the start of the command. age gets a recipient's public key, crypt4gh two key pairs; both wrap a file key in the
header and then do as we do. Prints medians, and ours to each.

Run: python bench/encryption.py [--megabytes 1000] [--rounds 3]
"""

import argparse
import filecmp
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

from mdm_client.keystore import file_cipher

Deed = Callable[[Path, Path], None]
Way = tuple[Deed, Deed]


class FixedKeys:
    """A key source without keystores."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def get_keys(self, guids: list[UUID]) -> dict[UUID, bytes]:
        return dict.fromkeys(guids, self._key)


def ours() -> Way:
    keys, guid = FixedKeys(), uuid4()
    return (
        lambda source, target: file_cipher.encrypt(keys, guid, str(source), str(target)) and None,
        lambda source, target: file_cipher.decrypt(keys, guid, str(source), str(target)) and None,
    )


def age() -> Way:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return (
        lambda source, target: pyrage.encrypt_file(str(source), str(target), [identity.to_public()]),
        lambda source, target: pyrage.decrypt_file(str(source), str(target), [identity]),
    )


def crypt4gh() -> Way:
    from crypt4gh import lib
    from nacl.public import PrivateKey

    sender, recipient = PrivateKey.generate(), PrivateKey.generate()

    def encrypt(source: Path, target: Path) -> None:
        with source.open("rb") as infile, target.open("wb") as outfile:
            lib.encrypt([(0, bytes(sender), bytes(recipient.public_key))], infile, outfile)

    def decrypt(source: Path, target: Path) -> None:
        with source.open("rb") as infile, target.open("wb") as outfile:
            lib.decrypt([(0, bytes(recipient), None)], infile, outfile, sender_pubkey=bytes(sender.public_key))

    return encrypt, decrypt


def copy() -> Way:
    def through(source: Path, target: Path) -> None:
        block = memoryview(bytearray(1 << 20))
        with source.open("rb", buffering=0) as infile, target.open("wb", buffering=0) as outfile:
            while count := infile.readinto(block):
                outfile.write(block[:count])

    return through, through


def available() -> dict[str, Way]:
    """Return every way by name; a peer that is not installed is named and left out."""
    ways = {"mdm": ours(), "copy": copy()}
    for name, module, make in (("age", "pyrage", age), ("crypt4gh", "crypt4gh", crypt4gh)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed (pip install -r requirements/bench.txt): not measured")
        else:
            ways[name] = make()
    return ways


def timed(deed: Deed, source: Path, target: Path) -> float:
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    deed(source, target)
    return time.perf_counter() - started


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return seconds of encrypting and of decrypting by way, one value a round, after one round to warm up."""
    plain, cipher, back = folder / "plain", folder / "cipher", folder / "back"
    with plain.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    ways = available()
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(rounds + 1):
        for name, (encrypt, decrypt) in ways.items():
            seconds[name][0].append(timed(encrypt, plain, cipher))
            seconds[name][1].append(timed(decrypt, cipher, back))
            assert filecmp.cmp(plain, back, shallow=False), f"{name}: not the same file"
    return {name: (encrypted[1:], decrypted[1:]) for name, (encrypted, decrypted) in seconds.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > 4_000_000 * arguments.megabytes
    with tempfile.TemporaryDirectory(dir=memory if room else None) as folder:
        seconds = measure(Path(folder), arguments.megabytes, arguments.rounds)
    rates = {name: [arguments.megabytes / statistics.median(values) for values in both] for name, both in seconds.items()}
    print(f"\n{arguments.megabytes} MB, median of {arguments.rounds} rounds, {'in memory' if room else 'on disk'}\n")
    print(f"{'':10} {'encrypt MB/s':>13} {'mdm to it':>10} {'decrypt MB/s':>13} {'mdm to it':>10}")
    for name, (encrypted, decrypted) in rates.items():
        ratios = [mine / theirs for mine, theirs in zip(rates["mdm"], (encrypted, decrypted), strict=True)]
        print(f"{name:10} {encrypted:13.0f} {ratios[0]:10.2f} {decrypted:13.0f} {ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
