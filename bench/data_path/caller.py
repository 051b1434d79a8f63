"""One of many callers: `caller.py CONFIG DIRECTORY COUNT TARGET` asks the catalog, waits for a line, fetches, writes a line."""

import sys
from pathlib import Path

from mdm_client import Client, parse_name
from own import fetch


def main() -> None:
    """Ask, wait, fetch."""
    config, directory, count, target = sys.argv[1:]
    with Client.load(Path(config)) as client:
        client.catalog.stat([parse_name(directory)])
        print("ready", flush=True)
        sys.stdin.readline()
        fetch(client, directory, Path(target), int(count))
        print("done", flush=True)


if __name__ == "__main__":
    main()
