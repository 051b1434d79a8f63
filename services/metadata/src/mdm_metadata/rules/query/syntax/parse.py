"""Parsing: a query's text, which must be one plain statement, becomes sqlglot's tree; and errors that point into the text."""

import logging
from functools import lru_cache

from mdm_wire.errors import Invalid
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.tokenizer_core import Token, TokenType

MAX_LENGTH = 65_536
MAX_TOKENS = 20_000
MAX_DEPTH = 40
#: Steps of the parser for each word or sign. What the query language allows takes less than two.
_MAX_MOVES = 4

# sqlglot warns with parts of the text it cannot parse, and these must not reach a log.
logging.getLogger("sqlglot").disabled = True

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_PREFIX = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}
_STATEMENTS = (exp.Select, exp.Update, exp.Delete)
_STARTS = {TokenType.SELECT, TokenType.UPDATE, TokenType.DELETE}
_FOREIGN = {TokenType.L_BRACKET, TokenType.L_BRACE}
#: Trees that are kept for statements that come again. A tree takes up to 500 times its text, so these take 70 MB at most.
_CACHED_LENGTH = 2_000
_CACHED = 64


Statement = exp.Select | exp.Update | exp.Delete


class Refusal(Invalid):
    """A query that cannot be evaluated; `line` and `column` count from 1."""

    def __init__(self, reason: str, message: str, line: int, column: int) -> None:
        super().__init__(reason, f"line {line}, column {column}: {message}", fields={"sql": f"{line}:{column}"})
        self.line = line
        self.column = column
        self._text = message

    def moved(self, lines: int) -> "Refusal":
        """Return the same refusal with its line moved down by `lines`."""
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
        """Check that a node has no other parts than these.

        Raises:
            Refusal: it has others.
        """
        for name, part in node.args.items():
            if name not in parts and part is not None and part is not False and part != [] and part != "":
                word = name.rstrip("_").replace("_", " ").upper()
                raise self.refuse(node, f"{word} is not allowed with {type(node).__name__.upper()}.")


class _TooManySteps(Exception):
    """The parser takes more steps than the query language needs."""


class _BoundedParser(PostgresParser):
    """sqlglot's parser tries `DATE(` as a type and then as a function, at each of 40 levels; this one gives up instead."""

    moves = 0

    def _advance(self, times: int = 1) -> None:
        self.moves -= 1
        if not self.moves:
            raise _TooManySteps
        super()._advance(times)


def parse(text: str) -> exp.Select:
    """Return the tree of one SELECT. The tree is shared between calls: do not change it.

    Raises:
        Refusal: it is anything else; the message says where and what is allowed.
        Invalid: it is too long.
    """
    tree = parse_statement(text)
    if type(tree) is not exp.Select:
        raise refuse_at(text, 0, "only SELECT is allowed.")
    return tree


def parse_change(text: str) -> exp.Update | exp.Delete:
    """Return the tree of one UPDATE or DELETE, as `parse` does for a SELECT."""
    tree = parse_statement(text)
    if not isinstance(tree, exp.Update | exp.Delete):
        raise refuse_at(text, 0, "only UPDATE and DELETE are allowed.")
    return tree


def parse_statement(text: str) -> Statement:
    """Return the tree of one SELECT, UPDATE or DELETE, as `parse` does for a SELECT.

    Raises:
        Refusal: it is anything else; the message says where and what is allowed.
        Invalid: it is too long.
    """
    if len(text) > MAX_LENGTH:
        raise Invalid("QUERY_TOO_LONG", f"A query has at most {MAX_LENGTH} characters.")
    return _parse_cached(text) if len(text) <= _CACHED_LENGTH else _parse(text)


@lru_cache(maxsize=_CACHED)
def _parse_cached(text: str) -> Statement:
    return _parse(text)


def _parse(text: str) -> Statement:
    tokens = _tokens(text)
    _check_tokens(text, tokens)
    try:
        parser = _BoundedParser(error_level=ErrorLevel.IMMEDIATE, dialect=Postgres())
        parser.moves = _MAX_MOVES * len(tokens) + 1_000
        trees = parser.parse(tokens, text)
    except ParseError as error:
        raise _located(text, error) from None
    except (RecursionError, _TooManySteps):
        raise refuse_at(text, 0, "nested too deeply: simplify the query.", "QUERY_TOO_DEEP") from None
    except Exception as error:
        if not isinstance(error, SqlglotError | ValueError | TypeError | AttributeError | KeyError | IndexError):
            raise
        raise refuse_at(text, 0, "this SELECT cannot be parsed.") from None
    if len(trees) != 1 or not isinstance(trees[0], Statement) or type(trees[0]) not in _STATEMENTS:
        raise refuse_at(text, 0, "only one SELECT is allowed, without UNION, INTERSECT, EXCEPT or parentheses around it.")
    return trees[0]


def _tokens(text: str) -> list[Token]:
    if "\0" in text:
        raise refuse_at(text, text.index("\0"), "the NUL character is not allowed.")
    try:
        tokens = list(Postgres().tokenize(text))
    except (SqlglotError, ValueError, IndexError):
        raise refuse_at(text, 0, "cannot be parsed: is a text, identifier or comment not closed?") from None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON and not tokens[-1].comments:
        tokens.pop()
    return tokens


def _check_tokens(text: str, tokens: list[Token]) -> None:
    if len(tokens) > MAX_TOKENS:
        raise refuse_at(text, tokens[MAX_TOKENS].start, f"a query has at most {MAX_TOKENS} words and signs.", "QUERY_TOO_LONG")
    if not tokens or tokens[0].token_type not in _STARTS:
        raise refuse_at(text, tokens[0].start if tokens else 0, "only SELECT, and where changes are made UPDATE and DELETE, is allowed.")
    depth = prefix = 0
    for token in tokens:
        if token.comments or token.token_type is TokenType.HINT:
            raise refuse_at(text, token.start, "comments are not allowed.")
        if token.token_type in _FOREIGN:
            raise refuse_at(text, token.start, "brackets and braces are not allowed.")
        if token.token_type is TokenType.SEMICOLON:
            raise refuse_at(text, token.start, "only one statement is allowed.")
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        prefix = prefix + 1 if token.token_type in _PREFIX else 0
        if max(depth, prefix) > MAX_DEPTH:
            raise refuse_at(text, token.start, f"nested more than {MAX_DEPTH} deep.", "QUERY_TOO_DEEP")


def _located(text: str, error: ParseError) -> Invalid:
    details = error.errors[0] if error.errors else {}
    line, column = details.get("line"), details.get("col")
    if not isinstance(line, int) or not isinstance(column, int):
        return refuse_at(text, 0, "this SELECT cannot be parsed.")
    offset = sum(len(part) + 1 for part in text.split("\n")[: line - 1]) + max(column - len(str(details.get("highlight") or " ")), 0)
    return refuse_at(text, offset, "not understood here; the query language is SELECT … FROM … WHERE … GROUP BY … ORDER BY … LIMIT ….")
