"""Tokens of jobs, made as `mdm delegate` makes them, for a service alone."""

import secrets
import time
from collections.abc import Iterable
from uuid import UUID

from mdm_client.delegation import Job, sign
from mdm_wire import dn, path
from mdm_wire.channel import read_certificate
from mdm_wire.delegation import Delegation
from mdm_wire.tls import TlsFiles


def token_for(job: TlsFiles, user: TlsFiles, paths: Iterable[str], acl_ids: Iterable[str], delegation_id: str = "") -> str:
    """Return a token, good for an hour, by which `job` reads paths that these access lists guard, as `user`."""
    bound = Job.parse(str(job.certificate))
    subject = dn.of_certificate(read_certificate(user.certificate))
    made = Delegation(
        user=subject,
        job=bound.dn,
        id=delegation_id or secrets.token_urlsafe(18),
        expires=int(time.time()) + 3600,
        paths=tuple(path.parse(lfn) for lfn in paths),
        acl_ids=frozenset(UUID(acl_id) for acl_id in acl_ids),
        thumbprint=bound.thumbprint,
    )
    return sign(made, user)
