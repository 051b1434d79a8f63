"""The client for programs that run on asyncio: the calls that such programs make, each in a thread, so that the loop never waits.

gRPC's synchronous channels are faster than its asynchronous ones in Python, and the calls' own logic (retries, staging, decryption) is
there once; so this is a face of `mdm_client.Client`, not another one. A task that is cancelled stops waiting at once; of a stream or a
download, the rest is given up.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar
from uuid import UUID

from mdm_wire.errors import FailedPrecondition, MdmError
from mdm_wire.retry import RetryPolicy

from mdm_client.catalog.model import Entry
from mdm_client.client import Client
from mdm_client.config import ClientConfig
from mdm_client.fetch.download import FetchOptions, FileResult
from mdm_client.fetch.plan import Plan, make_plan
from mdm_client.fetch.waiting import Cancellation
from mdm_client.filesystem.bulk import read_whole
from mdm_client.metadata.value import Row
from mdm_client.name_syntax import parse_name
from mdm_client.volume.geometry import Volume

_P = ParamSpec("_P")
_T = TypeVar("_T")
_THREADS = 16
#: Items that one visit to a thread brings of a stream.
_LOT = 500


class AsyncClient:
    """The grid as one user sees it, for asyncio. Use it in `async with`. Errors are `mdm_wire.errors.MdmError`, as those of `Client`.

    `client` is the synchronous client behind it: for calls that are not here, `await aio.call(aio.client.catalog.usage, "/biomed")`.
    """

    def __init__(self, client: Client, *, timeout: float = 120.0) -> None:
        """Take a client, which is closed with this one; `read` gives up after `timeout` seconds without progress."""
        self.client = client
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mdm-aio")
        self._cancellation = Cancellation()

    @classmethod
    def load(cls, path: Path | str, policy: RetryPolicy | None = None) -> "AsyncClient":
        """Return a client for the configuration in a TOML file; errors as `ClientConfig.load`."""
        return cls(Client(ClientConfig.load(path), policy))

    async def call(self, function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """Return what a function of the synchronous client returns; it runs in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments, **named))

    async def stat(self, names: Sequence[str]) -> list[Entry | MdmError]:
        """Return the entry of each name (LFN, GUID, SURL), links followed, or the error, in the order asked."""
        return await self.call(self.client.catalog.stat, [parse_name(name) for name in names])

    async def list_entries(self, lfn: str, recursive: bool = False) -> AsyncIterator[Entry]:
        """Yield the entries of a directory in order of path."""
        async for entry in self._lots(lambda: self.client.catalog.list_entries(lfn, recursive)):
            yield entry

    async def query(self, sql: str, *, parameters: Mapping[str, Any] | None = None) -> AsyncIterator[Row]:
        """Yield the rows of a SELECT over the metadata; `parameters` are the values of `:name` in it."""
        result = await self.call(self.client.metadata.query, sql, parameters=parameters)
        try:
            async for row in self._lots(lambda: iter(result)):
                yield row
        finally:
            result.close()

    async def read(self, names: Sequence[str]) -> dict[str, bytes | MdmError]:
        """Return files by name, decrypted in memory, or why each cannot be had: one request to each site. All are in memory at once."""
        return await self.call(self._read, list(dict.fromkeys(names)))

    async def plan(self, names: Sequence[str]) -> Plan:
        """Return the files that names lead to: files, directories with what is below them, patterns."""
        return await self.call(lambda: make_plan(self.client.catalog, [parse_name(name) for name in names]))

    async def download(self, plan: Plan, directory: Path, options: FetchOptions | None = None) -> AsyncIterator[FileResult]:
        """Fetch planned files into a directory and yield each one's result as it is known; leaving early gives up the rest."""
        results = self.client.download(plan.files, directory, options).results()
        try:
            async for result in self._lots(lambda: results, lot=1):
                yield result
        finally:
            await asyncio.shield(self.call(_closed, results))

    async def volume(self, series: str) -> Volume:
        """Return `array, affine` of a series; errors as `Client.volume`."""
        return await self.call(self.client.volume, series)

    async def close(self) -> None:
        """Give up what is read, and close every channel when the other calls have ended."""
        self._cancellation.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _read(self, names: list[str]) -> dict[str, bytes | MdmError]:
        found: dict[str, bytes | MdmError] = {}
        entries: dict[str, Entry] = {}
        for name, entry in zip(names, self.client.catalog.stat([parse_name(name) for name in names]), strict=True):
            if isinstance(entry, MdmError):
                found[name] = entry
            else:
                entries[name] = entry
        data = read_whole(self.client, list(entries.values()), self._timeout, self._cancellation)
        return {name: found[name] if name in found else _of(entries[name], data) for name in names}

    async def _lots(self, start: Callable[[], Iterator[_T]], lot: int = _LOT) -> AsyncIterator[_T]:
        """Yield what a blocking iterator yields."""
        items = await self.call(start)
        while True:
            taken = await self.call(_take, items, lot)
            for item in taken:
                yield item
            if len(taken) < lot:
                return


def _take(items: Iterator[_T], count: int) -> list[_T]:
    taken: list[_T] = []
    with suppress(StopIteration):
        while len(taken) < count:
            taken.append(next(items))
    return taken


def _closed(results: Generator[FileResult, None, None]) -> None:
    results.close()


def _of(entry: Entry, data: Mapping[UUID, bytes | MdmError]) -> bytes | MdmError:
    if entry.guid is None:
        return FailedPrecondition("NOT_A_FILE", f"{entry.lfn}: not a file")
    return data[entry.guid]
