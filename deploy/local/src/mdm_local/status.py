"""The status of a stack: as a table for people, as JSON for programs."""

from concurrent.futures import ThreadPoolExecutor

from mdm_forwarder.delivery import DeliveryQueue
from mdm_site.pacs import MDM_AE_TITLE
from mdm_site.site import DICOM_SRM

from mdm_local.component import SERVING
from mdm_local.layout import DOOR, FORWARDER, HOST, PACS, POSTGRES, SCP, USERS
from mdm_local.pacs.kind import CALLING_AE_TITLES, ORTHANC
from mdm_local.stack import Stack

Document = dict[str, object]


def document(stack: Stack) -> Document:
    """Return the status as plain data, asking every component for its health. The README describes the keys."""
    if not stack.state.pacs_kind:
        return {"data_dir": str(stack.layout.root), "up": False, "client_config": {}, "pacs": None, "postgres": None, "services": {}}
    with ThreadPoolExecutor(len(stack.components)) as executor:
        state = dict(zip(stack.components, executor.map(stack.health_of, stack.components), strict=True))
    return {
        "data_dir": str(stack.layout.root),
        "site": stack.state.name,
        "up": all(value == SERVING for value in state.values()),
        "client_config": {user: str(stack.layout.client(user)) for user in USERS},
        "pacs": _pacs(stack, state) if PACS in state else None,
        "postgres": {**_process(stack, POSTGRES, state), "conninfo": stack.postgres.conninfo()},
        "services": {service.name: _service(stack, service.name, state) for service in stack.services},
        "scp": {"aet": MDM_AE_TITLE, "host": HOST, "port": stack.state.ports[SCP]} if DICOM_SRM in stack.services else None,
        "door": f"https://localhost:{stack.state.ports[DOOR]}" if DICOM_SRM in stack.services else None,
        "spool": str(stack.layout.spool),
    }


def lines(status: Document) -> list[str]:
    """Return the status as a table for people."""
    services, pacs, postgres = status["services"], status["pacs"], status["postgres"]
    assert isinstance(services, dict)
    if not isinstance(postgres, dict):
        return [f"no stack in {status['data_dir']}; start one by `mdm-local up`"]
    rows = [(name, entry["address"], entry) for name, entry in services.items()]
    if isinstance(pacs, dict):
        rows.append((f"pacs ({pacs['kind']})", f"{pacs['aet']}@{pacs['host']}:{pacs['port']}", pacs))
    rows.append(("postgres", "Unix socket", postgres))
    table = [f"{name:<20} {address:<24} {entry['health']:<12} {entry['pid'] or '-'}" for name, address, entry in rows]
    if isinstance(pacs, dict) and pacs["refused"]:
        table.append(
            f"{pacs['refused']} instances were refused for good: `python -m mdm_forwarder.refusal --queue {pacs['queue']}` lists them"
        )
    clients = status["client_config"]
    assert isinstance(clients, dict)
    return [
        *table,
        "",
        f"site            {status['site']}",
        f"data directory  {status['data_dir']}",
        *([f"HTTPS door      {status['door']}"] if status["door"] else []),
        *(f"client config   {path}" for path in clients.values()),
    ]


def _process(stack: Stack, name: str, state: dict[str, str]) -> dict[str, object]:
    return {"pid": stack.pid_of(name), "health": state[name], "log": str(stack.log_of(name))}


def _service(stack: Stack, name: str, state: dict[str, str]) -> dict[str, object]:
    return {
        "address": f"{HOST}:{stack.state.ports[name]}",
        **_process(stack, name, state),
        "config": str(stack.layout.config(name)),
    }


def _pacs(stack: Stack, state: dict[str, str]) -> dict[str, object]:
    pacs = stack.pacs
    described: dict[str, object] = {
        "kind": pacs.kind,
        "aet": pacs.ae_title,
        "host": pacs.host,
        "port": pacs.port,
        "calling_aets": list(CALLING_AE_TITLES),
        "dicomweb": pacs.dicomweb or None,
        "http": pacs.http or None,
        "http_credentials_file": str(stack.layout.secret("pacs-credentials.json")) if pacs.http else None,
        **_process(stack, PACS, state),
        "queue": str(stack.layout.forward_queue),
    }
    if pacs.kind == ORTHANC:
        described["forwarder"] = _process(stack, FORWARDER, state)
    described["refused"] = _refused(stack)
    return described


def _refused(stack: Stack) -> int:
    """Return how many instances dicom-srm refused for good."""
    file = stack.layout.forward_queue
    if not file.is_file():
        return 0
    queue = DeliveryQueue(file)
    try:
        return len(queue.refusals())
    finally:
        queue.close()
