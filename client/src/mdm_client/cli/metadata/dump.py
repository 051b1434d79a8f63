"""meta dump: collections, views, entries and sequences, and the access lists that guard them, as JSON lines."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mdm_client.cli.context import common_options, force_option, session
from mdm_client.cli.error import show_error
from mdm_client.cli.metadata.dump_record import END, line_of_collection, line_of_entry, line_of_list, line_of_sequence
from mdm_client.cli.metadata.entry import quoted_path
from mdm_client.cli.table import print_json
from mdm_client.client import Client
from mdm_client.local_file import new_file
from mdm_client.metadata.collections import Collection
from mdm_client.metadata.entries import Entry


@click.command()
@click.argument("path")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@force_option
@click.option("-R", "--recursive", is_flag=True, help="What is below PATH too.")
@common_options
@click.pass_context
def dump(context: click.Context, path: str, output: Path | None, force: bool, recursive: bool) -> None:
    """Write a collection, and the entries that you may read in it, as JSON lines that mdm meta load reads.

    Links go with it; views where you may see what they show (`s` or `p`); access lists where you may see them (`g` or `p`); sequences
    where you may take numbers (`w`).
    """
    run = session(context)
    client = run.client(context)
    chosen = list(client.metadata.collections.walk(path)) if recursive else [client.metadata.collections.describe(path)]
    writer = _Dump(client)
    if output is None:
        for line in writer.lines(chosen):
            print_json(line)
    else:
        with new_file(output, replace=force) as file:
            for line in writer.lines(chosen):
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    if writer.unseen:
        show_error(
            f"{writer.unseen} access lists are left out, for you may not see them: the dump has their ids", "ACLS_LEFT_OUT", run.as_json
        )
    if writer.untold:
        show_error(
            f"{writer.untold} sequences are left out, for you may not take numbers from them (`w`)", "SEQUENCES_LEFT_OUT", run.as_json
        )
    if writer.withheld:
        show_error(
            f"{writer.withheld} views are left out, for you may not see what they show (`s` or `p`)",
            "VIEWS_LEFT_OUT",
            run.as_json,
        )


class _Dump:
    """Lines of a dump; each access list stands before the first line that names it, sequences behind all entries.

    `unseen`, `untold` and `withheld` count the access lists, the sequences and the views that are left out.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: set[str] = set()
        self.unseen = self.untold = self.withheld = 0

    def lines(self, chosen: Sequence[Collection]) -> Iterator[dict[str, Any]]:
        """Yield collections with what is in them, and the end."""
        self.withheld = sum(item.withheld for item in chosen)
        chosen = [item for item in chosen if not item.withheld]  # a view without its condition would show more
        for item in chosen:
            yield from self._lists([item.acl_id, item.default_acl_id])
            yield line_of_collection(item)
            if not item.target:
                yield from self._entries(item)
        for item in chosen:
            if not item.target:
                yield from self._sequences(item.path)
        yield dict(END)

    def _entries(self, item: Collection) -> Iterator[dict[str, Any]]:
        names = [attribute.name for attribute in item.attributes]
        columns = ", ".join(["entry", "entry_acl", *(f'"{name}"' for name in names)])
        result = self._client.metadata.query(f"SELECT {columns} FROM {quoted_path(item.path)} ORDER BY entry")  # noqa: S608 - parsed again there
        for batch in result.batches():
            yield from self._lists([row[1] for row in batch])
            for key, acl_id, *values in batch:
                given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
                yield line_of_entry(Entry(key, given, acl_id))

    def _sequences(self, path: str) -> Iterator[dict[str, Any]]:
        for state in self._client.metadata.sequences.of_collection(path):
            if state.step is None:
                self.untold += 1
            else:
                yield line_of_sequence(path, state)

    def _lists(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        new = [acl_id for acl_id in dict.fromkeys(ids) if acl_id not in self._known]
        self._known.update(new)
        for answer in self._client.metadata.acls.get(new) if new else ():
            if answer.acl is None:
                self.unseen += 1
            else:
                yield line_of_list(answer.acl_id, answer.acl)
