"""Errors that point into the user's text, and the check that a node has only the parts that are understood."""

from mdm_wire.errors import Invalid
from sqlglot import exp


class Refusal(Invalid):
    """A query that cannot be evaluated; `line` and `column` count from 1."""

    def __init__(self, reason: str, message: str, line: int, column: int) -> None:
        super().__init__(reason, f"line {line}, column {column}: {message}", fields={"sql": f"{line}:{column}"})
        self.line = line
        self.column = column
        self._text = message

    def moved(self, lines: int) -> "Refusal":
        """Return the same refusal, for a text that begins so many lines later."""
        return Refusal(self.reason, self._text, max(1, self.line + lines), self.column)


def refuse_at(text: str, offset: int, message: str, reason: str = "QUERY_INVALID") -> Refusal:
    """Return the error that points at a character of the text."""
    offset = max(0, min(offset, len(text)))
    before = text[:offset]
    return Refusal(reason, message, before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)


def offset_of(node: exp.Expr) -> int:
    """Return where a node starts: its own position, its first descendant's, or its nearest ancestor's."""
    start: exp.Expr | None = node
    while start is not None:
        offsets = [found.meta["start"] for found in start.walk() if found.meta and "start" in found.meta]
        if offsets:
            return int(min(offsets))
        start = start.parent
    return 0


class Text:
    """The user's text, for errors that point into it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def refuse(self, node: exp.Expr, message: str, reason: str = "QUERY_INVALID") -> Refusal:
        """Return the error that points at `node`."""
        return refuse_at(self._text, offset_of(node), message, reason)

    def only(self, node: exp.Expr, *parts: str) -> None:
        """Check that a node has no parts but these.

        Raises:
            Refusal: it has.
        """
        for name, part in node.args.items():
            if name not in parts and part is not None and part is not False and part != [] and part != "":
                word = name.rstrip("_").replace("_", " ").upper()
                raise self.refuse(node, f"{word} is not allowed with {type(node).__name__.upper()}.")
