"""Lists the instances that dicom-srm refused for good: `python -m mdm_forwarder.refusal --queue FILE`; `--retry` sends them again."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from mdm_forwarder.delivery import DeliveryQueue


def main() -> None:
    """List refusals, one a line: when, reason, the PACS's name of the instance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", type=Path, required=True, help="the forwarder's queue file")
    parser.add_argument("--retry", action="store_true", help="send all listed instances again, after the cause was removed")
    arguments = parser.parse_args()
    if not arguments.queue.is_file():
        sys.exit(f"{arguments.queue}: no such file")
    queue = DeliveryQueue(arguments.queue)
    try:
        if arguments.retry:
            print(f"{queue.retry_refused()} instances will be sent once more")
            return
        refusals = queue.refusals()
    finally:
        queue.close()
    for refusal in refusals:
        moment = datetime.fromtimestamp(refusal.since, UTC)
        print(f"{moment:%Y-%m-%dT%H:%M:%SZ}  {refusal.reason:<16}  {refusal.name}")


if __name__ == "__main__":
    main()
