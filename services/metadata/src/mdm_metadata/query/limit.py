"""Caps on the text of a query, so that none costs more to understand than it may."""

MAX_LENGTH = 65_536
MAX_TOKENS = 20_000
#: Steps of the parser for each word or sign.
MAX_MOVES = 4
MAX_TERMS = 10_000
MAX_DEPTH = 40
MAX_SOURCES = 8
MAX_OUTPUTS = 1_000
