"""The HTTPS door beside gRPC and nginx: one staged file of 100 MB, and many small files by gfal-copy beside `mdm get`.

Needs Orthanc, Debian's nginx-light, curl and gfal2. Starts a local stack of its own, and the reference: nginx as it serves files best,
with `sendfile`, large output buffers, TLS 1.3, mutual TLS with the same certificates and no compression, whose file is the same
ciphertext on the same disk.
Everything is staged before. The large file is read by one curl over one kept connection (its own times, the connection not counted),
and by one `Read` of gRPC over an open channel; rounds in turn, one to warm up. `many at once` are curls in parallel. Small files
are copied by one `gfal-copy -r` and by one `mdm get`, which also decrypts.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mdm.srm.v1 import transfer_pb2, transfer_pb2_grpc
from mdm_client import Client
from mdm_client.fetch.srm import SrmClient, Want
from mdm_local.process import is_port_free
from mdm_testing import machine
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import free_port, require_program, running_process
from mdm_testing.stack import Mdm
from mdm_testing.study import Study, make_study
from mdm_testing.supply import ImageSupply
from mdm_wire.tls import TlsFiles, secure_channel
from mdm_wire.url import surl_of_lfn

SITE, LARGE_SIDE, SMALL_SIDE, AT_ONCE = "hospital-a", 7070, 64, 4
NGINX = """
daemon off; worker_processes auto; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; gzip off; keepalive_requests 10000; output_buffers 2 512k;
    client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    server {{
        listen 127.0.0.1:{port} ssl; root {root}/files;
        ssl_protocols TLSv1.3; ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};
        ssl_client_certificate {tls.ca}; ssl_verify_client on;
    }}
}}
"""


@contextmanager
def nginx(root: Path, tls: TlsFiles) -> Iterator[str]:
    """Serve `root/files` until the block ends; yield the URL."""
    port = free_port()
    (root / "nginx.conf").write_text(NGINX.format(root=root, port=port, tls=tls))
    root.chmod(0o755)
    command = [require_program("nginx", "nginx-light"), "-c", str(root / "nginx.conf"), "-p", str(root)]
    with running_process(command, root / "nginx.log", lambda: not is_port_free(port)):
        yield f"https://localhost:{port}"


def store(supply: ImageSupply, srm: SrmClient, count: int, side: int) -> list[str]:
    """Register images, have them staged, and return their names."""
    study = Study.new()
    with tempfile.TemporaryDirectory() as folder:
        supply.put(make_study(Path(folder), study, count, side))
        supply.register(Path(folder), count)
    names = supply.names(study)
    response = srm.prepare_to_get([surl_of_lfn(SITE, name) for name in names], Want(levels=0))
    for _ in srm.watch(response.token):
        pass
    return names


class Reader:
    """Reads URLs by curl as one user."""

    def __init__(self, tls: TlsFiles) -> None:
        self._command = [require_program("curl", "curl"), "-sS", "--fail", "--cert", tls.certificate, "--key", tls.key, "--cacert", tls.ca]

    def seconds(self, url: str, target: str = "/dev/null") -> float:
        """Return the seconds of a second transfer on one connection."""
        command = [*map(str, self._command), "-w", "%{time_total} ", "-o", "/dev/null", url, "-o", target, url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    def at_once(self, url: str) -> float:
        """Return the seconds until several curls, started together, have the file."""
        began = time.perf_counter()
        processes = [subprocess.Popen([*map(str, self._command), "-o", "/dev/null", url]) for _ in range(AT_ONCE)]
        assert not any([process.wait() for process in processes])  # noqa: C419 - all of them have to end
        return time.perf_counter() - began


def by_grpc(address: str, tls: TlsFiles, turl: str) -> Callable[[], float]:
    """Return what reads a TURL by gRPC over a channel that stays open, and returns seconds."""
    stub = transfer_pb2_grpc.TransferServiceStub(secure_channel(address, tls))

    def read() -> float:
        began = time.perf_counter()
        assert sum(len(message.data) for message in stub.Read(transfer_pb2.ReadRequest(turl=turl))) > LARGE_SIDE * LARGE_SIDE
        return time.perf_counter() - began

    return read


def small_files(mdm: Mdm, names: list[str], url: str, tls: TlsFiles, folder: Path) -> list[str]:
    """Return the lines about many small files."""
    authorities = folder / "authorities"
    authorities.mkdir()
    command = ["openssl", "x509", "-hash", "-noout", "-in", tls.ca]
    digest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (authorities / f"{digest}.0").write_bytes(Path(tls.ca).read_bytes())
    identity = {"X509_CERT_DIR": authorities, "X509_USER_CERT": tls.certificate, "X509_USER_KEY": tls.key}
    environment = os.environ | {name: str(value) for name, value in identity.items()} | {"GFAL_PYTHONBIN": "/usr/bin/python3"}
    directory, target = names[0].rpartition("/")[0], folder / "gfal"
    command = [require_program("gfal-copy", "gfal2-util-scripts"), "-r", f"{url}{directory}", f"file://{target}"]
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    gfal = time.perf_counter() - began
    assert sum(1 for _ in target.rglob("*.dcm")) == len(names)
    began = time.perf_counter()
    result = mdm("alice", "get", directory, "-o", str(folder / "mdm"), timeout=600)
    seconds = time.perf_counter() - began
    assert result.code == 0, result.err
    return [f"{len(names)} small files   gfal-copy {gfal:.1f} s   mdm get {seconds:.1f} s"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of the large file, one more to warm up (default: 7)")
    parser.add_argument("--small", type=int, default=1000, help="small files (default: 1000)")
    arguments = parser.parse_args()
    begin = machine.state()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        stack = LocalStack(folder / "stack")
        try:
            stack.up()
            lines = measured(stack, folder, arguments.rounds, arguments.small)
        finally:
            stack.down()
    print("\n".join([f"{begin}; load {machine.load()} at the end", *lines]))


def measured(stack: LocalStack, folder: Path, rounds: int, small: int) -> list[str]:
    """Return the lines of everything."""
    supply, pki = ImageSupply(stack, folder), folder / "stack" / "pki"
    tls = TlsFiles(pki / "alice.crt", pki / "alice.key", pki / "ca.crt")
    server = TlsFiles(pki / "dicom-srm.crt", pki / "dicom-srm.key", pki / "ca.crt")
    with Client.load(stack.client_config("alice")) as client:
        srm = client.srm()
        [name] = store(supply, srm, 1, LARGE_SIDE)
        [file] = srm.prepare_to_get([surl_of_lfn(SITE, name)], Want(levels=0)).files
        reader, door, root = Reader(tls), stack.door, folder / "nginx"
        address = client.config.srm[SITE][0]
        (root / "files").mkdir(parents=True)
        reader.seconds(f"{door}{name}", str(root / "files" / "large"))
        with nginx(root, server) as reference:
            ways = {
                "nginx": lambda: reader.seconds(f"{reference}/large"),
                "HTTPS door": lambda: reader.seconds(f"{door}{name}"),
                "gRPC Read": by_grpc(address, tls, file.turl),
                f"nginx, {AT_ONCE} at once": lambda: reader.at_once(f"{reference}/large"),
                f"HTTPS door, {AT_ONCE} at once": lambda: reader.at_once(f"{door}{name}"),
            }
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds + 1):
                for way, read in ways.items():
                    found = read()
                    if number:
                        seconds[way].append(found)
        size = (root / "files" / "large").stat().st_size / 1e6
        megabytes = {way: size * (AT_ONCE if "once" in way else 1) / statistics.median(found) for way, found in seconds.items()}
        lines = [f"{way:<24} {speed:8.0f} MB/s" for way, speed in megabytes.items()]
        names = store(supply, srm, small, SMALL_SIDE)
    return [f"one file of {size:.0f} MB", *lines, *small_files(Mdm(stack, folder), names, door, tls, folder)]


if __name__ == "__main__":
    main()
