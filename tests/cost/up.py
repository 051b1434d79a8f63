"""Brings a stack up whose services serve metrics: `python -m tests.cost.up DIRECTORY NAME PORTS`, the last in JSON, by service."""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mdm_local.configuration import Configuration
from mdm_local.layout import HOST, Layout
from mdm_local.stack import Stack
from mdm_site.site import Service


def main() -> None:
    """Bring it up."""
    directory, name, ports = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    class WithMetrics(Configuration):
        def metrics(self, service: Service) -> dict[str, Any]:
            return {"host": HOST, "port": ports[service.name]}

    with patch("mdm_local.stack.Configuration", WithMetrics):
        Stack(Layout(Path(directory))).up(name=name)


if __name__ == "__main__":
    main()
