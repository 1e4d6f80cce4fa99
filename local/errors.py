"""A thing that went wrong while the local stack was handled -> one sentence for the person -> exit code 1."""


class LocalError(Exception):
    """Says what happened, where, and what to do; the command line prints it without a traceback."""
