"""A checkpoint that someone changed, with digests that agree again."""

import hashlib
import json
import pathlib

from palmscale.checkpoint.digest import MANIFEST, VERIFIED


def write(step: pathlib.Path, name: str, content: bytes):
    """Writes a file of a step, and states its digest in the manifest, or in VERIFIED."""
    (step / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    if name == MANIFEST:
        (step / VERIFIED).write_text(digest)
        return
    manifest = json.loads((step / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    write(step, MANIFEST, json.dumps(manifest).encode())


def edit(step: pathlib.Path, name: str, change):
    """Replaces the JSON value of a file of a step by what `change` makes of it."""
    value = json.loads((step / name).read_bytes())
    write(step, name, json.dumps(change(value)).encode())
