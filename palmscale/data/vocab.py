"""Vocabularies: text to token ids and back. No TensorFlow."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from palmscale.errors import CorruptionError, UserError


class Vocabulary(Protocol):
    """What every vocabulary offers; ids lie in [0, size)."""

    name: str
    size: int
    pad_id: int
    bos_id: int  # begins a sequence on the input side; never a target
    eod_id: int  # ends a document
    digest: str  # equal digests mean equal ids for every text

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the text, int32, without bos or eod."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; specials and ids outside the vocabulary give no text."""

    def description(self) -> dict[str, Any]:
        """Returns what `load_vocabulary` needs beside the files of `save`, ready for JSON."""

    def save(self, directory: Path) -> None:
        """Writes the files that the vocabulary consists of, if any, into an existing directory."""


class ByteVocabulary:
    """The bytes of UTF-8, with SeqIO's ids: pad 0, eos 1, unk 2, byte b at b + 3."""

    name = "bytes"
    size = 259
    pad_id = 0
    bos_id = 0  # as in PaLM's serving code, where the padding id begins a sequence
    eod_id = 1
    digest = hashlib.sha256(b"bytes: pad 0, eos 1, unk 2, byte b at b + 3").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32) + 3

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        kept = ids[(ids >= 3) & (ids < self.size)] - 3
        return kept.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def description(self) -> dict[str, Any]:
        return {"kind": self.name, "size": self.size, "digest": self.digest}

    def save(self, directory: Path) -> None:
        """Writes nothing: bytes need no file."""


class SentencePieceVocabulary:
    """A SentencePiece model's pieces; eod is the model's eos.

    The model file is read once. Where the model is lossless otherwise, a literal U+2581 in the text
    survives too: SentencePiece alone would decode it to a space.
    """

    name = "sentencepiece"
    bos_id = 0
    _FILE = "vocabulary.model"

    def __init__(self, model_file: str):
        import sentencepiece

        self.model_file = str(model_file)
        try:
            self._model = Path(model_file).expanduser().read_bytes()
        except OSError as error:
            raise UserError(
                f"SentencePiece model {model_file!r} cannot be read ({error.strerror}) - needed is"
                " a file that SentencePiece trained - correct the path"
            ) from None
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
            self.size = self._processor.get_piece_size()
        except RuntimeError:
            self.size = 0
        if not self.size:
            raise UserError(
                f"{model_file!r} is not a SentencePiece model - needed is the .model file that"
                " SentencePiece trained - correct the path"
            )
        self.eod_id = self._processor.eos_id()
        if self.eod_id < 0:
            raise UserError(
                f"SentencePiece model {model_file!r} has no eos piece - it marks the end of each"
                " document - train the model with --eos_id=1"
            )
        self.pad_id = max(0, self._processor.pad_id())
        self.digest = hashlib.sha256(self._model).hexdigest()
        self._escape_ids = self._find_escape()

    def encode(self, text: str) -> np.ndarray:
        if self._escape_ids is None or "\u2581" not in text:
            return np.array(self._processor.encode(text), dtype=np.int32)
        first, *rest = text.split("\u2581")
        ids = list(self._processor.encode(first))
        for part in rest:
            ids += self._escape_ids + self._processor.encode(part)
        return np.array(ids, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        return self._processor.decode(ids[(ids >= 0) & (ids < self.size)].tolist())

    def description(self) -> dict[str, Any]:
        return {"kind": self.name, "size": self.size, "digest": self.digest, "file": self._FILE}

    def save(self, directory: Path) -> None:
        (directory / self._FILE).write_bytes(self._model)

    def _find_escape(self) -> list[int] | None:
        # The byte pieces of U+2581. Splitting at it is exact only where a text's ids do not depend
        # on being first in the text (no dummy prefix) and white space is kept as it is.
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in "\u2581".encode()]
        probe = " a  b "
        lossless = self._processor.decode(self._processor.encode(probe)) == probe
        prefixed = self._processor.encode("a", out_type=str)[0].startswith("\u2581")
        return ids if lossless and not prefixed and all(map(self._processor.is_byte, ids)) else None


def load_vocabulary(description: dict[str, Any], directory: str | Path) -> Vocabulary:
    """Returns the vocabulary of a `description()` whose files `save` wrote into `directory`.

    Raises CorruptionError when the file is no longer the one described.
    """
    if description["kind"] == ByteVocabulary.name:
        return ByteVocabulary()
    if description["kind"] != SentencePieceVocabulary.name:
        raise UserError(
            f"vocabulary kind {description['kind']!r} is unknown - this palmscale knows"
            f" {ByteVocabulary.name!r} and {SentencePieceVocabulary.name!r} - use a newer palmscale"
        )
    path = Path(directory) / description["file"]
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != description["digest"]:
        raise CorruptionError(
            f"{path} differs from the digest stored beside it - a cache must be as it was built -"
            " restore the file, or delete the directory so that it is built again"
        )
    return SentencePieceVocabulary(str(path))
