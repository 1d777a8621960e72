"""`palmscale.load_run`: a run from gin files, for Python."""

import os
from typing import Any

from palmscale.cli.config import load
from palmscale.run.run import Run


def load_run(*gin_files: str | os.PathLike[str], **settings: Any) -> Run:
    """Returns the run that gin files describe, later ones over earlier; starts nothing.

    Args:
        gin_files: paths, looked for in the current directory and beside palmscale's `configs/`.
        settings: macros or parameters to set, as `--gin.NAME=VALUE` does on the command line:
            `TRAIN_STEPS=200`, or `**{"PaLM.dim": 64}`.

    Raises:
        UserError: a file is missing, a name unknown, or a value of the wrong type.
    """
    bindings = [f"{name}={value!r}" for name, value in settings.items()]
    return load.load_run([os.fspath(path) for path in gin_files], bindings)
