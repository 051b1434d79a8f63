"""Several instances of dicom-srm in containers: their configurations, containers, and ways through the relay.

The first instance is the container `dicom-srm` of deploy/compose.yaml. Each further one has a configuration made from the first one's,
beside it; a container of the same image; a spool, an AE title and published ports of its own.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdm_site.file import to_toml, write_file

#: Ports of an instance that are published on the host, by their names in `site.env`, and what the first instance has.
PUBLISHED = {"DICOM_SRM": 7006, "SCP": 11112, "CURATOR": 7010, "DOOR": 7011}
_APART = 100
_AE_TITLE_LENGTH = 16
_SRM_PORT, _SCP_PORT, _CURATOR_PORT, _DOOR_PORT = PUBLISHED.values()
# Per instance: what the Storage SCP takes (MAX_CONNECTIONS), and the listener for curators.
_CONNECTIONS = 64 + 16


def name_of(number: int) -> str:
    """Return the name of an instance, of its container and in tokens."""
    return "dicom-srm" if number == 1 else f"dicom-srm-{number}"


def scp_host(number: int) -> str:
    """Return the name that an instance has on the hospital's network only; there its Storage SCP and its listener for curators listen."""
    return f"{name_of(number)}-scp"


def port_variable(name: str, number: int) -> str:
    """Return the variable of `site.env` with a published port of an instance."""
    return f"MDM_PORT_{name}" + ("" if number == 1 else f"_{number}")


def usual_port(name: str, number: int) -> int:
    """Return a published port unless `site.env` has another: 7106 and so on for the second instance."""
    return PUBLISHED[name] + (number - 1) * _APART


def ae_title(first: str, number: int) -> str:
    """Return the AE title of an instance: that of the first, and the number. PACS send to an AE title, so no two may be equal."""
    return first if number == 1 else first[: _AE_TITLE_LENGTH - len(str(number))] + str(number)


def configuration(first: Mapping[str, Any], number: int) -> str:
    """Return the configuration of a further instance as TOML: the first one's, but for what it must have of its own."""
    own: dict[str, Any] = {
        "instance": name_of(number),
        "scp": {**first["scp"], "host": scp_host(number), "ae_title": ae_title(first["scp"].get("ae_title", "MDM"), number)},
    }
    if "curator" in first:
        own["curator"] = {**first["curator"], "host": scp_host(number)}
    note = "# Made from service.toml by `mdm-site instances` and `mdm-site init`: change that file, and run one of them again.\n"
    return note + to_toml({**first, **own})


def write(directory: Path, relay: Path, containers: Path, count: int) -> None:
    """Write configurations into dicom-srm's directory, the relay's file and the compose file of so many instances; remove surplus ones.

    For one instance there is nothing to write.
    """
    first = tomllib.loads((directory / "service.toml").read_text())
    wanted = {directory / f"instance-{number}.toml": configuration(first, number) for number in range(2, count + 1)}
    for path in set(directory.glob("instance-*.toml")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        write_file(path, text.encode())
    for path, text in ((relay, _relay(count)), (containers, _compose(count))):
        if count > 1:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            write_file(path, text.encode())
        else:
            path.unlink(missing_ok=True)


def _compose(count: int) -> str:
    numbers = range(2, count + 1)
    ports = "".join(
        f'      - "${{MDM_HOSPITAL_ADDRESS:-127.0.0.1}}:${{{port_variable(name, number)}:-{usual_port(name, number)}}}:{inner}"\n'
        for number in numbers
        for name, inner in (("SCP", usual_port("SCP", number)), ("CURATOR", usual_port("CURATOR", number)))
    )
    spools = "".join(f"  spool-{number}: {{}}\n" for number in numbers)
    return (
        "# Made by `mdm-site instances`: further instances of dicom-srm; deploy/compose adds it to deploy/compose.yaml.\n\nservices:\n"
        + "".join(map(_container, numbers))
        + f"  relay:\n    ports:\n{ports}\nvolumes:\n{spools}"
    )


def _container(number: int) -> str:
    """Return the container of an instance: as `dicom-srm` in deploy/compose.yaml, but for its name, command, ports and spool.

    Compose 1.29 extends no service of another file that depends on others.
    """
    name, config = name_of(number), f"/etc/mdm/service/instance-{number}.toml"
    ports = "\n".join(
        f'      - "${{MDM_GRID_ADDRESS:-127.0.0.1}}:${{{port_variable(kind, number)}:-{usual_port(kind, number)}}}:{inner}"'
        for kind, inner in (("DICOM_SRM", _SRM_PORT), ("DOOR", _DOOR_PORT))
    )
    return f"""\
  {name}:
    image: "mdm/dicom-srm:${{MDM_TAG:-latest}}"
    user: "${{MDM_UID}}:${{MDM_GID}}"
    hostname: {name}
    command: [serve, --migrate, --config, {config}]
    healthcheck: {{test: [CMD, python3, -m, mdm_service.server.probe, --config, {config}]}}
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    init: true
    logging: {{driver: json-file, options: {{max-size: 10m, max-file: "5"}}}}
    tmpfs: ["/tmp:mode=1777,size=64m"]
    stop_grace_period: 30s
    mem_limit: 4g
    cpus: "${{MDM_CPUS:-2.0}}"
    pids_limit: 2048
    depends_on:
      dicom-srm-db: {{condition: service_healthy}}
      catalog: {{condition: service_healthy}}
      metadata: {{condition: service_healthy}}
      keystore-a: {{condition: service_healthy}}
      keystore-b: {{condition: service_healthy}}
      keystore-c: {{condition: service_healthy}}
    networks:
      grid: {{}}
      db-dicom-srm: {{}}
      hospital: {{aliases: [{scp_host(number)}]}}
    ports:
{ports}
    volumes:
      - "spool-{number}:/var/lib/mdm"
      - "results:/var/lib/mdm-results"
      - "forwarder-status:/var/lib/mdm-forwarder:ro"
      - "${{MDM_SITE}}/dicom-srm:/etc/mdm/service:ro"
      - "${{MDM_SITE}}/trust:/etc/mdm/trust:ro"

"""


def _relay(count: int) -> str:
    """Return what the relay listens on besides deploy/relay/haproxy.cfg, whose limits hold for each instance."""
    listeners = "".join(
        f"""
listen {kind}-{number}
    bind :{usual_port(name, number)}
    maxconn {limit}
    stick-table type ipv6 size 10k expire 10m store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt {limit // 2} }}
    server {name_of(number)} {scp_host(number)}:{port} check inter 5s resolvers docker init-addr none
"""
        for number in range(2, count + 1)
        for kind, name, port, limit in (("scp", "SCP", _SCP_PORT, 64), ("curator", "CURATOR", _CURATOR_PORT, 16))
    )
    return f"# Made by `mdm-site instances`.\nglobal\n    maxconn {_CONNECTIONS * count}\n{listeners}"


def introduce(orthanc: Path, first: str, count: int, target: str) -> None:
    """Make the AE titles of all instances known to the demonstration's Orthanc, as destinations of C-MOVE."""
    if not orthanc.exists():
        return
    document = json.loads(orthanc.read_text())
    known = {name: entry for name, entry in document["DicomModalities"].items() if not name.startswith(f"{target}-")}
    for number in range(2, count + 1):
        known[f"{target}-{number}"] = {"AET": ae_title(first, number), "Host": scp_host(number), "Port": _SCP_PORT}
    if known != document["DicomModalities"]:
        write_file(orthanc, (json.dumps({**document, "DicomModalities": known}, indent=1) + "\n").encode(), private=True)
