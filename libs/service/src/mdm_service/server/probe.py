"""Asking a service how it is, over mutual TLS: `python -m mdm_service.server.probe --config FILE` asks the one of that configuration.

A program of its own and not a command of each service: containers run it every few seconds, so it imports little.
"""

import argparse
import sys
import tomllib
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

_ANY_HOST = ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
_METHOD = "/grpc.health.v1.Health/Check"


def is_serving(address: str, certificate: Path, key: Path, ca: Path, timeout: float = 2.0) -> bool:
    """Tell whether the service at `host:port` says that it serves; False also where nobody answers in `timeout` seconds."""
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
    with grpc.secure_channel(address, credentials, options=(("grpc.enable_http_proxy", 0),)) as channel:
        ask = channel.unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = ask(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Exit with 0 if the service of a configuration serves, with 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the service's configuration file")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait (default: 5)")
    arguments = parser.parse_args()
    document = tomllib.loads(arguments.config.read_text())
    listen, tls = document["listen"], document["tls"]
    host = "127.0.0.1" if listen.get("host", "127.0.0.1") in _ANY_HOST else listen["host"]
    certificate, key, ca = (arguments.config.parent / tls[name] for name in ("certificate", "key", "ca"))
    if not is_serving(f"{host}:{listen['port']}", certificate, key, ca, arguments.timeout):
        sys.exit("not serving")


if __name__ == "__main__":
    main()
