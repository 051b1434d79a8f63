"""Caps on queries: on their texts, so that none costs more to understand than it may, and on what they make."""

MAX_LENGTH = 65_536
MAX_TOKENS = 20_000
#: Steps of the parser for each word or sign.
MAX_MOVES = 4
MAX_TERMS = 10_000
MAX_DEPTH = 40
MAX_SOURCES = 8
MAX_OUTPUTS = 1_000
#: Different attributes that a query mentions: an entry is read once for each.
MAX_COLUMNS = 1_000
#: Mentions of attributes, beyond their number, that PostgreSQL may move to the entries, where each reads the entry again.
MAX_MENTIONS = 100
#: Characters of all texts made of one row.
MAX_MADE = 67_108_864
#: Aggregates of DISTINCT values, each of which sorts.
MAX_DISTINCT = 20
#: Rows, and characters, that are read from the database at a time.
MAX_BATCH = 1_000
MAX_BATCH_SIZE = 8_388_608
