"""A server of palmscale in a thread of this process, and requests to it."""

import contextlib
import http.client
import json
import socket
import threading
import time
from urllib.parse import urlsplit

from palmscale.serve.server import Address, Server

JSON = {"Content-Type": "application/json"}


class Asking:
    """Asks a server at a port of this machine."""

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None, headers=JSON):
        """Status, headers and parsed JSON, or text, of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        with contextlib.suppress(ValueError):
            text = json.loads(text)
        return answer.status, dict(answer.headers), text

    def post(self, path, body, **headers):
        """Status and parsed JSON of a POST."""
        status, _, answer = self.request("POST", path, body, JSON | headers)
        return status, answer

    def get(self, path, **headers):
        """Status and parsed JSON, or text, of a GET."""
        status, _, answer = self.request("GET", path, headers=headers)
        return status, answer

    def complete(self, **body):
        """The answer to a completion request, which must be 200."""
        status, answer = self.post("/v1/completions", body)
        assert status == 200, answer
        return answer

    def connected(self):
        """A socket to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def open_stream(self, **body):
        """A socket on which a stream has begun to arrive."""
        content = json.dumps(body | {"stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        connection = self.connected()
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        seen = b""
        while b"data:" not in seen:
            assert (part := connection.recv(4096)), seen
            seen += part
        return connection


class Running(Asking):
    """A server in a thread: where, what it said, and how it ended."""

    def __init__(self, load, **options):
        self.said, self.warned, self.error = [], [], None
        self.server = Server(
            load, address=Address(port=0), say=self.said.append, warn=self.warned.append, **options
        )
        self.url = self.server.url
        super().__init__(urlsplit(self.url).port)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.server.run()
        except BaseException as error:
            self.error = error

    def loaded(self):
        """Itself, once the model is loaded."""
        eventually(lambda: self.get("/health")[0] == 200)
        return self

    def end(self):
        """Ends it as SIGTERM does, and waits."""
        self.server.end()
        self.thread.join(120)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(load, **options):
    """A running server, loaded; it ends afterwards."""
    running = Running(load, **options)
    try:
        yield running.loaded()
    finally:
        running.end()


def eventually(holds, seconds=20):
    """Waits until something holds, on however slow a machine."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
