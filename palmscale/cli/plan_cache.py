"""Plans of programs that were compiled before, kept by all that decides what the compiler says."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import palmscale
from palmscale.cli.facts import compiler_versions

_PLANNER = Path(palmscale.__file__).parent / "plan"


def key_of(**parts: Any) -> str:
    """Returns the key of a plan: of these, the compiler's versions and the planner's own source."""
    source = hashlib.sha256()
    for path in sorted(_PLANNER.glob("*.py")):
        source.update(path.read_bytes())
    whole = {**parts, "versions": compiler_versions(), "planner": source.hexdigest()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def read(key: str) -> dict[str, Any] | None:
    """Returns the plan of a key, or None where there is none that can be read."""
    try:
        return json.loads(_file(key).read_text())
    except (OSError, ValueError):
        return None


def write(key: str, plan: Mapping[str, Any]) -> None:
    """Keeps a plan; where the folder cannot be written, it is only not kept."""
    path = _file(key)
    part = path.with_name(f"{key}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(plan))
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def _file(key: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return cache / "palmscale/plans" / f"{key}.json"
