"""The change feed, and read-only copies made from it.

It carries the stored form of entries from one database to another, unchanged. At the origin `store.feed_origin` reads it and
`rpc.feed_servicer` streams it; at the copy `subscription` fetches it and `store.feed_copy` applies it.
"""
