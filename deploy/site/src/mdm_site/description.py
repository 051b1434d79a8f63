"""A site described: for programs, and each instance of dicom-srm for its operator."""

import json
import tomllib

from mdm_site import instance
from mdm_site.containers import PACS_AE_TITLE, ContainerSite, port_variable
from mdm_site.pacs import MDM_AE_TITLE
from mdm_site.site import DICOM_SRM, OPERATOR


def describe_instances(site: ContainerSite) -> list[str]:
    """Return a line for each instance of dicom-srm: where users and curators reach it, and the destination to make at the PACS."""
    own, hospital = site.root / DICOM_SRM.name, site.environment()["MDM_HOSPITAL_ADDRESS"]
    lines = []
    for number, address, curators in zip(
        range(1, site.instance_count + 1), site.instances(OPERATOR), site.curator_addresses(), strict=True
    ):
        file = own / ("service.toml" if number == 1 else f"instance-{number}.toml")
        title = tomllib.loads(file.read_text())["scp"].get("ae_title", MDM_AE_TITLE)
        destination = f"{title} at {hospital}:{site.published('SCP', number)}"
        lines.append(f"{instance.name_of(number)}: users {address}, curators {curators}, destination at the PACS: {destination}")
    return lines


def describe(site: ContainerSite) -> str:
    """Return a site for programs, as JSON: its directory and name, client configurations, the PACS, the compose variables."""
    variables = site.environment()
    users = sorted(path.name for path in (site.root / "client").iterdir())
    hospital = variables["MDM_HOSPITAL_ADDRESS"]
    document = {
        "site": str(site.root),
        "authority": site.name,
        "client_config": {user: str(site.client(user)) for user in users},
        "pacs": {"aet": PACS_AE_TITLE, "host": hospital, "port": int(variables[port_variable("pacs")])},
        "scp": {"aet": MDM_AE_TITLE, "host": hospital, "port": int(variables[port_variable("scp")])},
        "instances": [instance.name_of(number) for number in range(1, site.instance_count + 1)],
        "compose": variables,
    }
    return json.dumps(document, indent=1)
