"""meta replica: the copies of other sites' subtrees that a metadata service keeps."""

import click

from mdm_client.cli.context import common_options, session
from mdm_client.cli.error import OK, SOME_FAILED
from mdm_client.cli.table import print_json, print_line, printable


@click.command()
@common_options
@click.pass_context
def replica(context: click.Context) -> int:
    """Show each copied subtree, how far it is behind its origin, and why it does not go on.

    Which subtrees are copied is configuration of the service. Exit code 1 when one does not go on.
    """
    run = session(context)
    states = run.client(context).metadata.collections.replicas()
    for state in states:
        if run.as_json:
            print_json(vars(state))
            continue
        if state.copying:
            how = "being copied"
        else:
            how = f"{state.behind} changes, {state.lag_seconds:.1f} s behind"
        print_line(printable(f"{state.origin:<16} {state.subtree:<40} {how}{': ' + state.problem if state.problem else ''}"))
    return SOME_FAILED if any(state.problem for state in states) else OK
