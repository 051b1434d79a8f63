"""The change feed, and read-only copies made from it.

What travels is the stored form: it goes from one database to another without being understood on the way. `origin` reads it, `servicer`
streams it, `subscription` fetches it at the other end, `copy` applies it there.
"""
