"""Client SDK and mdm command of the Medical Data Manager."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdm_wire.errors import MdmError

    from mdm_client.calls import Patience
    from mdm_client.client import Client
    from mdm_client.config import ClientConfig
    from mdm_client.fetch.download import FetchOptions, FileResult
    from mdm_client.fetch.plan import Plan, PlannedFile, make_plan
    from mdm_client.names import Name, parse_name

__all__ = [
    "Client",
    "ClientConfig",
    "FetchOptions",
    "FileResult",
    "MdmError",
    "Name",
    "Patience",
    "Plan",
    "PlannedFile",
    "make_plan",
    "parse_name",
]

_MODULES = {
    "Client": "client",
    "ClientConfig": "config",
    "MdmError": "errors",
    "FetchOptions": "download",
    "FileResult": "download",
    "Name": "names",
    "Patience": "calls",
    "Plan": "plan",
    "PlannedFile": "plan",
    "make_plan": "plan",
    "parse_name": "names",
}


# Loaded on first use: the command must set gRPC's verbosity before anything imports gRPC.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
