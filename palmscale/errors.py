"""The exceptions that some caller catches. Everything else is a plain built-in exception."""


class UserError(ValueError):
    """The user's mistake: what is wrong with its value, what is needed, what to change.

    The command line prints the message as one line and exits with code 2, without a traceback.
    """


class CorruptionError(UserError):
    """Stored bytes differ from their digest. Names the file; restore falls back past it."""


class HostLost(RuntimeError):
    """Another host is gone, did not come, or stands still: starting all again may help.

    The command line prints the message as one line and exits with code 75, 'restart me'.
    """


class DoesNotFitError(RuntimeError):
    """A program needs more memory than a device has: `needed_bytes` and `offered_bytes`."""

    def __init__(self, *, needed_bytes: int, offered_bytes: int) -> None:
        super().__init__(f"needs {needed_bytes:,} bytes of {offered_bytes:,} a device")
        self.needed_bytes, self.offered_bytes = needed_bytes, offered_bytes
