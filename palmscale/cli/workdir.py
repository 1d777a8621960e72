"""Where a run is kept, as the user writes it: a folder that its hosts see, or gs://BUCKET/PATH."""

import os

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, place


def workdir_place(text: str) -> Place:
    """Returns the workdir that the text names, and readies Orbax for one in an object store."""
    workdir = place(text)
    if isinstance(workdir, ObjectPath):
        # Orbax's own paths would go through TensorFlow, where that is installed.
        os.environ.setdefault("EPATH_USE_TF", "0")
    return workdir
