"""The mdm command."""

from mdm_client.cli.start import prepare

prepare()

try:
    from mdm_client.cli.app import main
except KeyboardInterrupt:  # before there is a command that could say so
    raise SystemExit(130) from None

__all__ = ["main"]
