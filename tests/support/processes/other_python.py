"""A Python with packages that are no part of the tests' own environment."""

import os
import subprocess
import sys


def python_with(packages, variable, folder):
    """The Python that an environment variable names; else of an environment made in `folder`."""
    if given := os.environ.get(variable):
        return given
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/pip", "install", "-q", *packages], check=True)
    return str(folder / "bin/python")
