"""Which calls may be sent again: what each method declares in its .proto, and nothing else."""

from functools import cache

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions


@cache
def is_idempotent(method: str) -> bool:
    """Return whether the method of a full name (`/package.Service/Method`) declares that sending it twice does no more than once.

    An unknown method, and one that declares nothing, is not.
    """
    service, _, name = method.removeprefix("/").partition("/")
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return False
    return bool(found.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN)
