"""Client SDK and mdm command of the Medical Data Manager."""

# Instead of that of `typing`, which takes long to import: nothing handles an interrupt yet; see `mdm_client.cli`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mdm_wire.errors import MdmError
    from mdm_wire.retry import RetryPolicy

    from mdm_client.client import Client
    from mdm_client.config import ClientConfig
    from mdm_client.fetch.download import FetchOptions, FileResult
    from mdm_client.fetch.plan import Plan, PlannedFile, make_plan
    from mdm_client.name_syntax import Name, parse_name

__all__ = [
    "Client",
    "ClientConfig",
    "FetchOptions",
    "FileResult",
    "MdmError",
    "Name",
    "Plan",
    "PlannedFile",
    "RetryPolicy",
    "make_plan",
    "parse_name",
]

_MODULES = {
    "Client": "client",
    "ClientConfig": "config",
    "MdmError": "mdm_wire.errors",
    "FetchOptions": "fetch.download",
    "FileResult": "fetch.download",
    "Name": "name_syntax",
    "Plan": "fetch.plan",
    "PlannedFile": "fetch.plan",
    "RetryPolicy": "mdm_wire.retry",
    "make_plan": "fetch.plan",
    "parse_name": "name_syntax",
}


# Loaded on first use: the command must set gRPC's verbosity before anything imports gRPC.
def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    place = _MODULES[name]
    return getattr(import_module(place if place.startswith("mdm_wire") else f"{__name__}.{place}"), name)
