"""Images by name, read into memory one after the other while the next ones are fetched."""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from mdm_wire.errors import Invalid, MdmError
from mdm_wire.url import surl_authority

from mdm_client.fetch.plan import Plan, make_plan
from mdm_client.image.cache import FileCache
from mdm_client.image.fetching import Fetcher, FileRef, Grid
from mdm_client.image.instance import Instance, read_instance
from mdm_client.name_syntax import Name

DEFAULT_MEMORY = 1024**3
#: Files that are fetched ahead of the one in use.
_AHEAD = 64


class ImageReader:
    """Decrypted files of a grid, in memory only: at most `memory` bytes of them are held. Close it, or use it in `with`."""

    def __init__(self, grid: Grid, memory: int = DEFAULT_MEMORY, timeout: float = 120.0) -> None:
        self._grid = grid
        self._files = Fetcher(grid, FileCache(memory), partial(read_instance, root=""), Instance.held_bytes, timeout=timeout)

    def plan(self, names: Sequence[Name]) -> Plan:
        """Return the files that names lead to: files, directories with what is below them, patterns."""
        return make_plan(self._grid.catalog, names)

    def read(self, refs: Sequence[FileRef]) -> Iterator[tuple[FileRef, bytes | MdmError]]:
        """Yield each file's bytes, or why it cannot be had, in the order given."""
        for number, ref in enumerate(refs):
            if number % (_AHEAD // 2) == 0:
                self._files.prefetch(refs[number : number + _AHEAD])
            try:
                yield ref, self._files.file(ref)[1]
            except MdmError as error:
                yield ref, error

    def close(self) -> None:
        """Stop everything and forget all files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def refs_of(plan: Plan) -> list[FileRef]:
    """Return what fetches the files of a plan, in its order; a file with several names once."""
    found: dict[str, FileRef] = {}
    for file in plan.files:
        found.setdefault(str(file.guid), FileRef(file.guid, file.location.lfn, surl_authority(file.location.surls[0])))
    return list(found.values())


def need_packages(what: str, extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed.

    Raises:
        Invalid: PACKAGE_MISSING.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Invalid("PACKAGE_MISSING", f"{what} needs {', '.join(missing)}: pip install 'mdm-client[{extra}]'")
