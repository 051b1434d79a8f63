"""Health check of a service over mutual TLS: `python -m mdm_service.server.probe --config FILE` asks the one of that configuration.

Separate from the service command because containers run it every few seconds and it must start fast: it imports little.
"""

import argparse
import sys
import tomllib
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from mdm_wire.tls import TlsFiles, secure_channel

_ANY_HOST = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
_METHOD = "/grpc.health.v1.Health/Check"


SERVING = "SERVING"


def is_serving(address: str, certificate: Path, key: Path, ca: Path, timeout: float = 2.0, service: str = "") -> bool:
    """Return whether the service at `host:port` reports SERVING; False also if nothing answers in `timeout` seconds.

    `service` is one of its services by full name, or one of its dependencies, such as `pacs`; by default all of it.
    """
    try:
        return ask(address, certificate, key, ca, timeout, service) == SERVING
    except grpc.RpcError:
        return False


def ask(address: str, certificate: Path, key: Path, ca: Path, timeout: float, service: str = "") -> str:
    """Return the health that the service at `host:port` reports: SERVING, NOT_SERVING, …

    Raises:
        grpc.RpcError: nothing answers in `timeout` seconds, one side does not trust the other, or there is no such `service`.
    """
    with secure_channel(address, TlsFiles(certificate, key, ca)) as channel:
        check = channel.unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    """Exit with 0 if the service of a configuration serves, or with `--service` a part or dependency of it; with 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the service's configuration file")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait (default: 5)")
    parser.add_argument("--service", default="", help="a service by full name, or a dependency such as pacs (default: all of it)")
    arguments = parser.parse_args()
    document = tomllib.loads(arguments.config.read_text())
    listen, tls = document["listen"], document["tls"]
    host = "127.0.0.1" if listen.get("host", "127.0.0.1") in _ANY_HOST else listen["host"]
    certificate, key, ca = (arguments.config.parent / tls[name] for name in ("certificate", "key", "ca"))
    if not is_serving(f"{host}:{listen['port']}", certificate, key, ca, arguments.timeout, arguments.service):
        sys.exit(f"{arguments.service or 'the service'}: not serving")


if __name__ == "__main__":
    main()
