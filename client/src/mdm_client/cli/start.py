"""What makes the start and the end of the command short. Imported before everything else."""

import gc
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader

# gRPC imports them for servers and clients of asyncio, which the command is not (but for `mdm view`): a third of gRPC's import.
_LATER = frozenset({"asyncio", "grpc.aio", "grpc.experimental.aio", "grpc_status._async"})
_MANY_OBJECTS = 50_000


class _Later:
    """Finds modules that are loaded when something of them is first used."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del target
        spec = PathFinder.find_spec(name, path) if name in _LATER else None  # type: ignore[arg-type]  # typeshed's path is private
        if spec is None or spec.loader is None:
            return None
        spec.loader = LazyLoader(spec.loader)
        return spec


def prepare() -> None:
    """Have the process import gRPC quickly, and without its own messages."""
    # gRPC writes failed handshakes to standard error; the command explains them itself. It reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # What a command imports stays: by default Python would look through all of it for garbage some thirty times, a tenth of the start.
    gc.set_threshold(_MANY_OBJECTS)
    sys.meta_path.insert(0, _Later)


def finish() -> None:
    """Let the process end without a last look for garbage in everything that was imported, which takes 20 ms and more."""
    gc.freeze()
