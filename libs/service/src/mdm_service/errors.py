"""The error of a service that cannot start; what crosses the network is in `mdm_wire.errors`."""


class ConfigurationError(Exception):
    """The configuration cannot be used; the message names file, key and remedy."""
