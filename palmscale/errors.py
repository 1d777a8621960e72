"""The exceptions that callers catch. All other errors are built-in exceptions."""


class UserError(ValueError):
    """A user error. The message states the wrong value, what is expected, and what to change.

    The command line prints the message as one line and exits with code 2, without a traceback.
    """


class CorruptionError(UserError):
    """Stored data does not match its digest; the message names the file.

    A restore falls back to an earlier step.
    """


class HostLost(RuntimeError):
    """Another host is gone, did not join, or makes no progress; restarting the job may help.

    The command line prints the message as one line and exits with code 75, 'restart me'.
    """


class NotSaved(RuntimeError):
    """The state of a run could not be saved; the message names the last good checkpoint.

    The command line prints the message as one line and exits with code 1.
    """


class AskedToEnd(SystemExit):
    """The process was asked to end (SIGTERM) and did so before it had anything to return.

    Not an `Exception`, so that nothing retries what it interrupts. Uncaught, it ends a program with
    exit code 75, 'restart me'.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 75


class DoesNotFitError(RuntimeError):
    """A program needs `needed_bytes` of memory, and a device has only `offered_bytes`."""

    def __init__(self, *, needed_bytes: int, offered_bytes: int) -> None:
        super().__init__(f"needs {needed_bytes:,} bytes per device; only {offered_bytes:,} exist")
        self.needed_bytes, self.offered_bytes = needed_bytes, offered_bytes
