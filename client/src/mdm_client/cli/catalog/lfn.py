"""Arguments that name entries of the catalog, completed by the shell."""

import click
from click.shell_completion import CompletionItem

_MOST = 200  # more are no help to anybody


class LfnType(click.ParamType[str]):
    """Text that may be an LFN; the shell completes it with what is in the directory."""

    name = "lfn"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the paths that begin with what is typed; none where the catalog does not answer at once."""
        from mdm_wire.channel import open_channel
        from mdm_wire.errors import MdmError
        from mdm_wire.retry import RetryPolicy

        from mdm_client.catalog.client import CatalogClient
        from mdm_client.catalog.model import DIRECTORY, Search
        from mdm_client.cli.context import session
        from mdm_client.names import normalise_lfn

        if not incomplete.startswith("/"):
            return [CompletionItem("/")] if not incomplete else []
        above, _, begun = incomplete.rpartition("/")
        escaped = "".join(f"[{character}]" if character in "*?[" else character for character in begun)
        found: list[CompletionItem] = []
        try:
            config = session(ctx).config()
            with open_channel(config.catalog, config.tls) as channel:
                client = CatalogClient(channel, RetryPolicy(call_seconds=3, retry_seconds=0))
                for entry in client.find(normalise_lfn(above or "/"), Search(name=f"{escaped}*", max_depth=1)):
                    found.append(CompletionItem(entry.lfn + ("/" if entry.kind == DIRECTORY else "")))
                    if len(found) == _MOST:
                        break
        except MdmError:
            return []
        return found


LFN = LfnType()
