"""The real gcloud's own parser on command lines; no call is sent: it has no account."""

import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

_NO_ACCOUNT = "You do not currently have an active account selected"


def refused(lines, folder):
    """The lines, each once, that the parser does not take, with what it says of them."""
    # An empty configuration has no account, wherever this runs.
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(folder / "no-account"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }

    def parse(line):
        done = subprocess.run(
            shlex.split(line), env=environment, capture_output=True, text=True, timeout=120
        )
        return None if _NO_ACCOUNT in done.stderr else f"{line}: {done.stderr}"

    # The parser looks whether the folder exists; those of a dry run are gone.
    there = {re.sub(r"(--output-directory=)\S+", rf"\g<1>{folder}", line) for line in lines}
    with ThreadPoolExecutor(2) as pool:
        return [said for said in pool.map(parse, sorted(there)) if said]
