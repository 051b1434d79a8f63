"""What goes wrong with a site, whether of containers or of processes, in one line for its operator."""


class SiteError(Exception):
    """The site is not as a command needs it; the message says what to do."""
