"""An HTTP connection that costs a measurement as little as Python allows."""

import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_BUFFER_BYTES = 4 << 20


class KeptConnection:
    """A kept connection to a server on this machine: identity encoding, bodies received by `readinto` into one buffer."""

    def __init__(self, port: int, authorization: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._headers = {"Authorization": authorization, "Accept-Encoding": "identity"}
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    @classmethod
    def of_user(cls, port: int, user: str, password: str) -> "KeptConnection":
        """Return a connection with an account's name and password."""
        return cls(port, f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")

    def receive(self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None) -> int:
        """Send a request and receive its body into the buffer; return its size in bytes."""
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        size = 0
        while count := response.readinto(self._buffer):
            size += count
        assert response.status == 200, (response.status, path)
        return size

    def ask(self, method: str, path: str, body: Any = None, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON, or data, and return the JSON of the answer."""
        self._connection.request(method, path, data if data is not None else json.dumps(body), {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        written = response.read()
        assert response.status == 200, (response.status, path)
        return json.loads(written)

    def put(self, paths: Sequence[Path]) -> None:
        """Store files in an Orthanc, one request each."""
        for path in paths:
            self.ask("POST", "/instances", data=path.read_bytes())

    def close(self) -> None:
        """Close it."""
        self._connection.close()
