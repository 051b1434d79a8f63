"""Checks on sqlglot's nodes: exactly the parts that are understood may be there."""

from sqlglot import exp

from mdm_metadata.rules.query.position import Refusal, offset_of, refuse_at


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
