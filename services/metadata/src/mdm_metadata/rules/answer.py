"""Query and Explain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mdm_service.identity.caller import Caller
from mdm_wire.errors import Aborted

from mdm_metadata.rules.model import Scalar
from mdm_metadata.rules.port import Batch, Store
from mdm_metadata.rules.query.compiler import Compiler, Membership
from mdm_metadata.rules.query.parameter import constants
from mdm_metadata.rules.query.partial import Merge
from mdm_metadata.rules.query.syntax.tree import Output

MAX_CHANGED = 10_000
MAX_RETURNED = 3_000_000


@dataclass(frozen=True)
class Answer:
    """The columns of a query, its rows in batches of columns, and the way to stop it from another thread."""

    outputs: Sequence[Output]
    batches: Iterator[Batch]
    cancel: Callable[[], None]
    merge: Merge | None = None


class Queries:
    """Answers queries. A text asked before costs neither parsing nor compiling."""

    def __init__(self, store: Store, membership: Membership) -> None:
        self._store = store
        self._compiler = Compiler(membership)

    @contextmanager
    def query(self, caller: Caller, sql: str, parameters: Mapping[str, Scalar], *, partial: bool = False) -> Iterator[Answer]:
        """Evaluate a SELECT over what the caller may read: `r` on every collection and on every entry.

        With `partial`, answer this site's part of a query over several, and how the parts become one.

        Raises:
            Invalid: the query is not allowed or cannot be computed; unknown and forbidden collections give one error.
            Aborted: the collections change all the time; safe to repeat.
        """
        compilation = self._compiler.begin(caller, sql, constants(parameters), partial=partial)
        with self._store.querying() as session:
            for query, merge in compilation.candidates(session.collections):
                batches = session.rows(query)
                if batches is not None:
                    yield Answer(query.statement.outputs, batches, session.cancel, merge)
                    return
            raise Aborted("COLLECTION_CHANGED", "The collections change all the time: repeat the query.")

    def explain(self, caller: Caller, sql: str, parameters: Mapping[str, Scalar]) -> list[str]:
        """Return PostgreSQL's plan of a SELECT, which is not run. For operators: they need no right on the collections."""
        compilation = self._compiler.begin(caller, sql, constants(parameters), partial=False)
        with self._store.querying() as session:
            return session.explain(compilation.statement(session.collections))
