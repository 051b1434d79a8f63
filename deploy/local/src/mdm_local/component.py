"""What a stack consists of: the services, in the order they start, and what runs beside them."""

from mdm_site.service import DICOM_SRM, SERVICES

#: Services that make sense without the rest: a site that publishes or copies metadata needs no PACS.
ALONE = ("catalog", "metadata")

POSTGRES = "postgres"
PACS = "pacs"
FORWARDER = "pacs-forwarder"
SCP = "dicom-srm-scp"
PACS_HTTP = "pacs-http"

#: Everything that `start`, `stop` and `kill` know, in the order of starting.
COMPONENTS = (POSTGRES, PACS, *(service.name for service in SERVICES), FORWARDER)
#: Everything that listens on a TCP port, and the component that does.
LISTENERS = {**{service.name: service.name for service in SERVICES}, SCP: DICOM_SRM.name, PACS: PACS, PACS_HTTP: PACS}
