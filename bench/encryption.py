"""Encrypts and decrypts one large file, beside age as a program and as a library, and crypt4gh, in the same run.

Each round takes every way in turn, from a file to a file in a memory-backed folder where there is one, so that no disk is measured;
"copy" reads and writes the same bytes and does nothing else. Ours is the SDK's `file_cipher`, a key given: what `mdm encrypt` and
`mdm decrypt` do behind the start of the command. All have a file key and authenticate segments of 64 KiB or more:

- age: the reference implementation, a compiled Go program (Debian's `age`), its start of some milliseconds included;
- pyrage: the same format by compiled Rust in this process;
- crypt4gh: the reference implementation of GA4GH, Python over libsodium, which is compiled.

The first round warms up and is not counted. Prints medians, ours to each, and processor seconds for a GB, of which a way with several
threads may use more than one a second.

Run: python bench/encryption.py [--megabytes 1000] [--rounds 3]
"""

import argparse
import filecmp
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from mdm_client.keystore import file_cipher
from mdm_testing import machine

Action = Callable[[Path, Path], None]
Way = tuple[Action, Action]


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


def age(folder: Path) -> Way:
    """The program; a new identity in `folder`."""
    identity = folder / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True).stdout.strip()
    return (
        lambda source, target: subprocess.run(["age", "-r", recipient, "-o", target, source], check=True) and None,
        lambda source, target: subprocess.run(["age", "-d", "-i", identity, "-o", target, source], check=True) and None,
    )


def pyrage() -> Way:
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


def available(folder: Path) -> dict[str, Way]:
    """Return every way by name; a peer that is not installed is named and left out."""
    ways = {"mdm": ours(), "copy": copy()}
    if shutil.which("age"):
        ways["age (Go)"] = age(folder)
    else:
        print("age is not installed (Debian: age): not measured")
    for name, module, make in (("pyrage (Rust)", "pyrage", pyrage), ("crypt4gh", "crypt4gh", crypt4gh)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed (pip install -r requirements/bench.txt): not measured")
        else:
            ways[name] = make()
    return ways


@dataclass(frozen=True)
class Spent:
    """What one action took: seconds, and processor seconds of this process and of programs that it ran."""

    seconds: float
    processor: float


def spent(action: Action, source: Path, target: Path) -> Spent:
    """Do an action and return what it took."""
    target.unlink(missing_ok=True)
    before, started = _processor(), time.perf_counter()
    action(source, target)
    return Spent(time.perf_counter() - started, _processor() - before)


def _processor() -> float:
    programs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + programs.ru_utime + programs.ru_stime


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, tuple[list[Spent], list[Spent]]]:
    """Return what encrypting and decrypting took by way, one value a round, after one round to warm up."""
    plain, cipher, back = folder / "plain", folder / "cipher", folder / "back"
    with plain.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    ways = available(folder)
    taken: dict[str, tuple[list[Spent], list[Spent]]] = {name: ([], []) for name in ways}
    for _ in range(rounds + 1):
        for name, (encrypt, decrypt) in ways.items():
            taken[name][0].append(spent(encrypt, plain, cipher))
            taken[name][1].append(spent(decrypt, cipher, back))
            assert filecmp.cmp(plain, back, shallow=False), f"{name}: not the same file"
    return {name: (encrypted[1:], decrypted[1:]) for name, (encrypted, decrypted) in taken.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    memory, begin = Path("/dev/shm"), machine.state()
    room = memory.is_dir() and shutil.disk_usage(memory).free > 4_000_000 * arguments.megabytes
    with tempfile.TemporaryDirectory(dir=memory if room else None) as folder:
        taken = measure(Path(folder), arguments.megabytes, arguments.rounds)
    print(f"\n{begin}; load {machine.load()} at the end")
    print(f"{machine.versions(['cryptography'])}; {arguments.megabytes} MB {'in memory' if room else 'on disk'}", end="; ")
    print(f"medians of {arguments.rounds} rounds in turn after one to warm up\n")
    print("| | encrypt MB/s | mdm to it | processor s/GB | decrypt MB/s | mdm to it | processor s/GB |\n|---|---|---|---|---|---|---|")
    mine = [statistics.median(each.seconds for each in side) for side in taken["mdm"]]
    for name, sides in taken.items():
        cells = [name]
        for own, side in zip(mine, sides, strict=True):
            seconds, processor = (
                statistics.median(values) for values in zip(*((each.seconds, each.processor) for each in side), strict=True)
            )
            cells += [f"{arguments.megabytes / seconds:.0f}", f"{seconds / own:.2f}", f"{processor / arguments.megabytes * 1000:.2f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
