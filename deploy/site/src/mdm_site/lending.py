"""A user's identity for a command that runs in a container of the site."""

import os
from pathlib import Path

from mdm_site import configuration, toml
from mdm_site.containers import ContainerSite
from mdm_site.error import SiteError
from mdm_site.service import DICOM_SRM


def lend(site: ContainerSite, user: str, directory: Path) -> Path:
    """Copy a user's certificate and key, for the account that containers run as, beside a client configuration in which the services
    have the names they have there; return its path. Remove the directory after use.

    Raises:
        SiteError: the site has no such user, or no certificate of it here any more.
    """
    own = site.client(user).parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for name, private in ((f"{user}.crt", False), (f"{user}.key", True), ("ca.crt", False)):
            site.replace(directory / name, (own / name).read_bytes(), private)
    except OSError as error:
        raise SiteError(f"{own}: {error.strerror}; is {user} a user of the site?") from error
    inside = configuration.of_client(site, DICOM_SRM.name) | site.identity(user)
    (directory / "client.toml").write_text(toml.dumps(inside))
    if os.geteuid() == 0:
        variables = site.environment()
        for path in (directory, *directory.iterdir()):
            os.chown(path, int(variables["MDM_UID"]), int(variables["MDM_GID"]))
    return directory / "client.toml"
