"""Runs the mdm command: python -m mdm_client.cli."""

from mdm_client.cli import main

main()
