"""The vocabulary that travels with exported weights, so that they come back with it."""

import json
from pathlib import Path

from palmscale.data.vocabulary import Vocabulary, load_vocabulary
from palmscale.errors import UserError

FOLDER, _DESCRIPTION = "vocabulary", "description.json"


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the vocabulary's description and files below a folder."""
    own = folder / FOLDER
    own.mkdir(parents=True)
    vocabulary.save(own)
    (own / _DESCRIPTION).write_text(json.dumps(vocabulary.description(), indent=2) + "\n")


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Returns the vocabulary that `write_vocabulary` wrote; None: there is none.

    Raises:
        UserError: its files are not whole.
    """
    path = folder / FOLDER / _DESCRIPTION
    if not path.is_file():
        return None
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); use an intact copy.") from None
    return load_vocabulary(description, folder / FOLDER)
