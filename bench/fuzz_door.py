"""Fuzzes the HTTPS door: mutated requests over TLS, whole and cut, several on one connection.

Run: python bench/fuzz_door.py [SECONDS] [SEED]
Starts a local stack of its own. After each connection the door must still answer; a 500, a traceback, or silence stops the run and leaves
the bytes. The same SEED sends the same bytes. Prints how many connections were made, and how
many answers had which status.
"""

import contextlib
import random
import re
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mdm_testing.local_stack import LocalStack

_SEEDS = (
    b'GET /biomed/hospital-a HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\nIf-Range: "x"\r\n\r\n',
    b"PROPFIND /biomed/hospital-a HTTP/1.1\r\nHost: localhost\r\nDepth: 1\r\nContent-Length: 4\r\n\r\n<a/>",
    b'POST /api/v1/stage HTTP/1.1\r\nHost: localhost\r\nContent-Length: 46\r\n\r\n{"files": [{"path": "/biomed/hospital-a/none"}]}',
    b'POST /api/v1/archiveinfo/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{"paths": [1]}\r\n0\r\n\r\n',
    b'POST /ga4gh/drs/v1/objects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 27\r\n\r\n{"bulk_object_ids": ["x"]}\n',
    b"HEAD /turl/srm-1-x/00000000-0000-0000-0000-000000000000 HTTP/1.1\r\nHost: localhost\r\nWant-Digest: adler32, md5;q=0.3\r\n\r\n",
    b"OPTIONS /ga4gh/drs/v1/objects/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
)
_PIECES = (
    b"\r\n",
    b"\n",
    b"\x00",
    b":",
    b" ",
    b"\t",
    b"%2e%2e/",
    b"%00",
    b"\xff",
    b"Content-Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n",
)
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")


def mutated(source: random.Random) -> bytes:
    """Return requests with some bytes removed, repeated, replaced or put in."""
    data = bytearray(b"".join(source.choices(_SEEDS, k=source.randint(1, 3))))
    for _ in range(source.randint(0, 6)):
        at = source.randrange(len(data))
        match source.randrange(4):
            case 0:
                del data[at : at + source.randint(1, 20)]
            case 1:
                data[at:at] = data[at : at + source.randint(1, 200)] * source.choice((1, 1, 1, 200))
            case 2:
                data[at] = source.randrange(256)
            case _:
                data[at:at] = source.choice(_PIECES)
    return bytes(data)


def sent(context: ssl.SSLContext, port: int, data: bytes, seconds: float) -> bytes:
    """Return what comes back until nothing does for so many seconds."""
    found = b""
    with (
        contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError),
        socket.create_connection(("localhost", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(data)
        connection.settimeout(seconds)
        while block := connection.recv(1_000_000):
            found += block
    return found


def main() -> None:
    """Send until the time is over."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    source, statuses, connections = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as directory:
        stack = LocalStack(Path(directory) / "stack")
        try:
            stack.up()
            pki, port = Path(directory) / "stack" / "pki", int(stack.door.rpartition(":")[2])
            context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
            context.load_cert_chain(pki / "alice.crt", pki / "alice.key")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                data = mutated(source)
                answer = sent(context, port, data, 0.05)
                found = [status.decode() for status in _STATUS.findall(answer)]
                alive = (
                    sent(context, port, b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 20) if not found else b"404"
                )
                if "500" in found or b"Traceback" in answer or b"404" not in alive:
                    Path(f"crash-{seed}.http").write_bytes(data)
                    raise SystemExit(f"seed {seed}, connection {connections}: the door failed")
                connections += 1
                statuses.update(found)
        finally:
            stack.down()
    print(f"seed {seed}: {connections} connections, answers {dict(sorted(statuses.items()))}")


if __name__ == "__main__":
    main()
