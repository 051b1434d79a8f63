"""Errors of the local stack: one clear line each."""


class LocalError(Exception):
    """Something the user can act on: what, where, what to do."""
