"""Health check of Orthanc: `python -m mdm_forwarder.probe --url URL --password-file FILE`."""

import argparse
import sys
from pathlib import Path

import httpx

from mdm_forwarder.orthanc import HTTP_USER


def main() -> None:
    """Exit with 0 if Orthanc answers, with 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="Orthanc's REST root")
    parser.add_argument("--password-file", type=Path, required=True)
    arguments = parser.parse_args()
    account = (HTTP_USER, arguments.password_file.read_text().strip())
    try:
        httpx.get(f"{arguments.url}/system", auth=account, timeout=4, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        sys.exit(f"not answering: {error}")


if __name__ == "__main__":
    main()
