"""A Google Cloud Storage of this machine: the emulator, with the faults that a test asks for.

The emulator keeps each object in a file, where a test may look at it and spoil it. What it does not
do itself is added: a write or a removal that is bound to a generation fails where it is another.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.parse

ABSENT = "the gcp-storage-emulator is absent"


class ObjectStore:
    """A bucket of the store; `folder` holds its objects as files."""

    def __init__(self, root, port, name):
        self.url, self.folder = f"gs://{name}", root / ".cloudstorage" / name
        self._faults = root / "faults.json"
        at = f"http://localhost:{port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": at,
            "TENSORSTORE_GCS_HTTP_URL": at,
        }

    @contextlib.contextmanager
    def failing(self, path=".*", *, status=503, method=".*"):
        """Answers requests that match the patterns with `status`; 0: hangs up without a word."""
        fail = self.fault(path=path, status=status, method=method)
        exec(fail)
        try:
            yield
        finally:
            exec(self.mended)

    def fault(self, path=".*", *, status=503, method=".*", times=10**9):
        """Python that makes the store answer so many requests that match with `status`."""
        told = json.dumps({"path": path, "status": status, "method": method, "times": times})
        file = str(self._faults)
        return (
            f"import os, pathlib; pathlib.Path({file + '.partial'!r}).write_text({told!r});"
            f" os.replace({file + '.partial'!r}, {file!r})"
        )

    @property
    def mended(self):
        """Python that ends the fault."""
        return f"import os; os.unlink({str(self._faults)!r})"

    def put(self, name, content=b""):
        """Writes an object."""
        from palmscale.storage.place import place

        place(f"{self.url}/{name}").write_bytes(content)

    def names(self, below):
        """The objects below a folder of the bucket, by their names there, in order."""
        top = self.folder / below
        return sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file())

    def download(self, below, to: pathlib.Path):
        """A copy of a folder of the bucket, such as a workdir."""
        return pathlib.Path(shutil.copytree(self.folder / below, to))


@contextlib.contextmanager
def serving(root):
    """Serves a store whose files are below `root`; its port."""
    import tiny_job  # not in the server, which finds only this folder

    port = tiny_job.free_port()
    command = [sys.executable, __file__, str(port), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout.readline() == b"ready\n"
            yield port
        finally:
            server.kill()


def made(root, port, name):
    """A new bucket of the store."""
    import urllib.request

    request = urllib.request.Request(
        f"http://localhost:{port}/storage/v1/b?project=tests",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    return ObjectStore(root, port, name)


def _serve(port, root):
    from gcp_storage_emulator import server

    faults = pathlib.Path(root) / "faults.json"
    seen = {"fault": None, "requests": 0}

    def refusal(handler, method):
        """The status with which a request is refused; None: it is not."""
        url = urllib.parse.urlparse(handler.path)
        query = urllib.parse.parse_qs(url.query)
        with contextlib.suppress(FileNotFoundError):
            fault = json.loads(faults.read_text())
            if fault != seen["fault"]:
                seen.update(fault=fault, requests=0)
            path = urllib.parse.unquote(handler.path)
            if re.search(fault["path"], path) and re.fullmatch(fault["method"], method):
                seen["requests"] += 1
                if seen["requests"] <= fault["times"]:
                    return fault["status"]
        if "ifGenerationMatch" in query:
            bucket, _, name = url.path.partition("/b/")[2].partition("/o")
            name = query["name"][0] if "name" in query else urllib.parse.unquote(name[1:])
            if not name:
                return None  # It is in the body, where nothing of palmscale's own puts it.
            there = handler.storage.objects.get(bucket, {}).get(name, {"generation": "0"})
            if there["generation"] != query["ifGenerationMatch"][0]:
                return 412
        return None

    def guarded(method, handle):
        def guard(handler):
            status = refusal(handler, method)
            if status is None:
                return handle(handler)
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            if status == 0:
                return None
            content = json.dumps({"error": {"code": status, "message": "as the test asks"}})
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content.encode())

        return guard

    for method in ("GET", "POST", "DELETE", "PUT", "PATCH"):
        handle = getattr(server.RequestHandler, f"do_{method}")
        setattr(server.RequestHandler, f"do_{method}", guarded(method, handle))
    server.create_server("localhost", port, in_memory=False, data_dir=root).start()
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
