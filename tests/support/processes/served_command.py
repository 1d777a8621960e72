"""A `palmscale serve` process, and OpenAI's client of it."""

import contextlib
import re
import signal
import threading

import openai
import tiny_run


class Command:
    """A `palmscale serve` process that listens."""

    def __init__(self, *flags, **options):
        self.process = tiny_run.start(
            "serve", "--slots=4", "--context_length=128", *flags, **options
        )
        self.lines = []
        self.url = None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"^Serving \S+ at (\S+):", line):
                self.url = found[1]
                break
        assert self.url, self.lines
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        self.lines += self.process.stderr

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    def end(self, sign=signal.SIGTERM):
        """Sends a signal; returns the exit code and everything that it said."""
        self.process.send_signal(sign)
        code = self.process.wait(timeout=300)
        self._reader.join(60)
        return code, "".join(self.lines)


@contextlib.contextmanager
def served(*flags, **options):
    """A server that is killed if it does not end by itself."""
    command = Command(*flags, **options)
    try:
        yield command
    finally:
        command.process.kill()
