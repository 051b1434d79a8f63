"""Names of a query: sources in FROM and the attributes they have."""

from collections.abc import Sequence

from sqlglot import exp

from mdm_metadata.rules.model import ACL_NAME, KEY_NAME, AttributeType, StoredAttribute, StoredCollection
from mdm_metadata.rules.query.syntax.tree import ACL_SLOT, Column

#: How many attributes a message names.
MAX_NAMED = 20
#: How many characters of a path it shows.
MAX_SHOWN = 120


class UnknownName(Exception):
    """A name that is unknown or ambiguous; the message is for the user."""


class Scope:
    """The sources of one query, in order, each under the names by which it may be qualified."""

    def __init__(self) -> None:
        self.collections: list[StoredCollection] = []
        self._names: list[frozenset[str]] = []

    def add(self, collection: StoredCollection, alias: str | None) -> None:
        """Add a source. Without an alias it is named by its path and by the last segment of that.

        Raises:
            UnknownName: the alias is taken.
        """
        names = frozenset({alias.casefold()} if alias else {collection.collection.folded, collection.collection.folded.rpartition("/")[2]})
        if alias and any(alias.casefold() in other for other in self._names):
            raise UnknownName(f"the alias {alias[:63]} is used twice.")
        self.collections.append(collection)
        self._names.append(names)

    def sources(self, qualifier: str | None) -> Sequence[int]:
        """Return the sources that a qualifier means; all for None.

        Raises:
            UnknownName: none, or more than one.
        """
        if qualifier is None:
            return range(len(self.collections))
        found = [index for index, names in enumerate(self._names) if qualifier.casefold() in names]
        if len(found) != 1:
            problem = "means two collections: give each an alias" if found else "is no collection of FROM"
            raise UnknownName(f"{qualifier[:63]} {problem}.")
        return found

    def column(self, name: str, qualifier: str | None) -> Column:
        """Return the column that a name means.

        Raises:
            UnknownName: none, or more than one.
        """
        found = [column for index in self.sources(qualifier) if (column := self._column(index, name.lower())) is not None]
        if len(found) != 1:
            paths = ", ".join(shown_path(self.collections[index].collection.path) for index in self.sources(qualifier))
            unknown = f"is no attribute of {paths}; there are {self._known(qualifier)}"
            raise UnknownName(f"{name[:63]} {f'is an attribute of two collections ({paths}): qualify it' if found else unknown}.")
        return found[0]

    def _known(self, qualifier: str | None) -> str:
        """Return the names that exist, as many as fit into a line."""
        names = [stored.attribute.name for index in self.sources(qualifier) for stored in self.collections[index].attributes]
        names = [KEY_NAME, *dict.fromkeys(names)]
        return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")

    def all_columns(self, qualifier: str | None) -> list[Column]:
        """Return the columns of `*` or `alias.*`: the key, then the attributes in order of definition."""
        columns = []
        for index in self.sources(qualifier):
            if self.collections[index].has_key:
                columns.append(Column(index, "", AttributeType.TEXT))
            columns.extend(Column(index, stored.slot, stored.attribute.type) for stored in self.collections[index].attributes)
        return columns

    def attribute(self, column: Column) -> StoredAttribute | None:
        """Return the attribute behind a column; None for the key and the ACL."""
        return next((stored for stored in self.collections[column.source].attributes if stored.slot == column.slot), None)

    def _column(self, index: int, folded: str) -> Column | None:
        if folded == KEY_NAME and self.collections[index].has_key:
            return Column(index, "", AttributeType.TEXT)
        stored = self.collections[index].by_name.get(folded)
        if stored is None and folded == ACL_NAME and self.collections[index].has_key:
            return Column(index, ACL_SLOT, AttributeType.UUID)
        return None if stored is None else Column(index, stored.slot, stored.attribute.type)


def shown_path(path: str) -> str:
    """Return a collection's path as a message names it, in one line."""
    text = path if path.isprintable() else ascii(path)[1:-1]
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def identifier(node: object) -> str | None:
    """Return the text of an identifier node; None for anything else."""
    return str(node.this) if type(node) is exp.Identifier else None
