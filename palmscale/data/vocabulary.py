"""Vocabularies: text to token ids and back, without TensorFlow."""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from palmscale.data.cuts import SPACE, Cuts
from palmscale.errors import CorruptionError, UserError
from palmscale.storage.inside import inside, read_limited
from palmscale.storage.place import Place, local_path
from palmscale.storage.typed_json import checked

_BLOCK_CHARACTERS = 20_000
_MOST_MODEL_BYTES = 1 << 28  # 256k pieces take about 8 MB
_LITERAL = re.compile("(\u2581+)")
_WORD_END = re.compile(r"[^ ](?= )")
_SPANS_WORDS = re.compile("[^\u2581 ][\u2581 ]")  # a piece that a cut before a space could split


class Vocabulary(Protocol):
    """The interface of all vocabularies; ids lie in [0, size)."""

    name: str
    size: int
    pad_id: int
    bos_id: int  # begins a sequence on the input side; never a target
    eod_id: int  # ends a document
    digest: str  # equal digests mean equal ids for every text

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the text, int32, without bos or eod."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special ids and ids outside the vocabulary have no text."""

    def token_bytes(self) -> list[bytes | None]:
        """Returns the UTF-8 bytes that each id adds to a text; None: it is special."""

    def description(self) -> dict[str, Any]:
        """Returns what `load_vocabulary` needs besides the files of `save`, ready for JSON."""

    def save(self, directory: Place) -> None:
        """Writes the vocabulary's files, if any, to an existing directory."""


class ByteVocabulary:
    """The bytes of UTF-8, with SeqIO's ids: pad 0, eos 1, unk 2, byte b at b + 3."""

    name = "bytes"
    size = 259
    pad_id = 0
    bos_id = 0  # as in PaLM, whose sequences begin with the padding id
    eod_id = 1
    digest = hashlib.sha256(b"bytes: pad 0, eos 1, unk 2, byte b at b + 3").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        ids = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32)
        ids += 3
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        kept = ids[(ids >= 3) & (ids < self.size)] - 3
        return kept.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def token_bytes(self) -> list[bytes | None]:
        return [None, None, None, *(bytes([byte]) for byte in range(256))]

    def description(self) -> dict[str, Any]:
        return {"kind": self.name, "size": self.size, "digest": self.digest}

    def save(self, directory: Place) -> None:
        """Writes nothing: bytes need no file."""


class RawByteVocabulary:
    """The bytes of UTF-8 as they are: byte b has id b, as in models trained on raw bytes.

    NUL pads, begins and ends documents, and so has no text: a NUL in a text ends a document.
    """

    name = "raw_bytes"
    size = 256
    pad_id = bos_id = eod_id = 0
    digest = hashlib.sha256(b"raw bytes: byte b at b; NUL is pad, bos and eos").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        kept = ids[(ids > 0) & (ids < self.size)]
        return kept.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def token_bytes(self) -> list[bytes | None]:
        return [None, *(bytes([byte]) for byte in range(1, 256))]

    def description(self) -> dict[str, Any]:
        return {"kind": self.name, "size": self.size, "digest": self.digest}

    def save(self, directory: Place) -> None:
        """Writes nothing: bytes need no file."""


class SentencePieceVocabulary:
    """The pieces of a SentencePiece model; eod is the model's eos.

    The model file is read once. If the model is otherwise lossless, a literal U+2581 in the text
    is preserved as well, which SentencePiece alone would decode to a space. A BPE model then
    encodes a long text in blocks: the ids are the same, and a megabyte takes half the time. Texts
    of millions of characters are encoded in parts, so that memory is bounded; see `Cuts`.

    Raises:
        UserError: the file is not a SentencePiece model, or the model has no eos.
    """

    name = "sentencepiece"
    bos_id = 0  # not the model's bos: PaLM's sequences begin with the padding id
    _FILE = "vocabulary.model"

    def __init__(self, model_file: str):
        import sentencepiece

        self.model_file = str(model_file)
        try:
            self._model = local_path(model_file).read_bytes()
        except OSError as error:
            raise UserError(
                f"the SentencePiece model {model_file!r} cannot be read ({error.strerror}); correct"
                " the path."
            ) from None
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
            self.size = self._processor.get_piece_size()
            self.pieces()
        except (RuntimeError, UnicodeDecodeError):  # not a model, or its pieces are not text
            self.size = 0
        if not self.size:
            raise _not_a_model(model_file)
        self.eod_id = self._processor.eos_id()
        if self.eod_id < 0:
            raise UserError(
                f"the SentencePiece model {model_file!r} has no eos piece, which marks the end of"
                " documents; train it with SentencePiece's option eos_id=1."
            )
        self.pad_id = max(0, self._processor.pad_id())
        self.digest = hashlib.sha256(self._model).hexdigest()
        try:
            pieces_of_a = self._processor.encode("a", out_type=str)
            self._begins_with_space = pieces_of_a[0].startswith(SPACE)
            self._escape_ids = self._find_escape()
            self._cuts_at_words = self._escape_ids is not None and self._merges_within_words()
            self._out_type = self._find_out_type()
        except (ValueError, IndexError, RuntimeError):  # of pieces that are not UTF-8
            raise _not_a_model(model_file) from None

    def encode(self, text: str) -> np.ndarray:
        if self._escape_ids is None:
            is_cut = self._begins_with_space and len(text) > _BLOCK_CHARACTERS
            parts = self._cuts.parts(text) if is_cut else [text]
            return np.concatenate([self._encode(part) for part in parts])
        if len(text) <= _BLOCK_CHARACTERS and "\u2581" not in text:
            return self._encode(text)
        parts = [np.zeros(0, np.int32)]
        for number, run in enumerate(_LITERAL.split(text)):
            if number % 2:
                parts.append(np.tile(self._escape_ids, len(run)))
            else:
                for part in self._cuts.parts(run):
                    parts += map(self._encode, self._blocks(part))
        return np.concatenate(parts)

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        return self._processor.decode(ids[(ids >= 0) & (ids < self.size)].tolist())

    def token_bytes(self) -> list[bytes | None]:
        found = [piece.replace(SPACE, " ").encode() for piece in self.pieces()]
        ids = list(range(self.size))
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        for is_special in zip(ids, *(kind(ids) for kind in kinds)):
            if any(is_special[1:]):
                found[is_special[0]] = None
        for byte, token_id in enumerate(self.byte_ids()):
            if token_id is not None:
                found[token_id] = bytes([byte])
        return found

    def description(self) -> dict[str, Any]:
        return {"kind": self.name, "size": self.size, "digest": self.digest, "file": self._FILE}

    def save(self, directory: Place) -> None:
        (directory / self._FILE).write_bytes(self._model)

    @property
    def content(self) -> bytes:
        """The model, as its file holds it."""
        return self._model

    def pieces(self) -> list[str]:
        """Returns the piece of each id, with U+2581 in place of spaces."""
        return self._processor.id_to_piece(list(range(self.size)))

    def byte_ids(self) -> list[int | None]:
        """Returns the id of each of the 256 bytes' pieces; None if the model lacks the piece."""
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        return [token_id if self._processor.is_byte(token_id) else None for token_id in ids]

    @functools.cached_property
    def _cuts(self) -> Cuts:
        return Cuts(self.pieces(), begins_with_space=self._begins_with_space)

    def _encode(self, text: str) -> np.ndarray:
        return np.asarray(self._processor.encode(text, out_type=self._out_type), dtype=np.int32)

    def _blocks(self, text: str) -> Iterator[str]:
        start = 0
        while self._cuts_at_words and len(text) - start > _BLOCK_CHARACTERS:
            word_end = _WORD_END.search(text, start + _BLOCK_CHARACTERS)
            if word_end is None:
                break
            yield text[start : word_end.end()]
            start = word_end.end()
        yield text[start:]

    def _find_escape(self) -> np.ndarray | None:
        # The byte pieces of U+2581. Splitting at it is exact only if ids do not depend on being at
        # the start of the text (no dummy prefix) and whitespace is preserved.
        byte_ids = self.byte_ids()
        ids = [byte_ids[byte] for byte in "\u2581".encode()]
        probe = " a  b "
        lossless = self._processor.decode(self._processor.encode(probe)) == probe
        is_exact = lossless and not self._begins_with_space and None not in ids
        return np.array(ids, np.int32) if is_exact else None

    def _merges_within_words(self) -> bool:
        # BPE's scores are ranks. Unigram's ids could differ after a cut, because it sums scores
        # from the start of the text and so rounds differently; it needs no blocks to be fast.
        scores = self._processor.get_score(list(range(self.size)))
        return all(map(float.is_integer, scores)) and not any(
            map(_SPANS_WORDS.search, self.pieces())
        )

    def _find_out_type(self) -> type | str:
        # sentencepiece before 0.2.2 returns only lists; arrays are a few percent faster.
        try:
            self._processor.encode("", out_type="numpy")
        except (ValueError, RuntimeError):
            return int
        return "numpy"


def _not_a_model(model_file: str) -> UserError:
    return UserError(
        f"{model_file!r} is not a SentencePiece model; expected the .model file that SentencePiece"
        " wrote."
    )


class _Description(TypedDict):
    kind: str
    digest: str
    file: NotRequired[str]
    special: NotRequired[dict[str, str]]


_OF_BYTES = {kind.name: kind for kind in (ByteVocabulary, RawByteVocabulary)}


def vocabulary_named(name: str) -> Vocabulary:
    """Returns the vocabulary of a name or file.

    Args:
        name: `bytes`, `raw_bytes`, or the path of a tokenizer.json, of a folder with one, or of a
            SentencePiece model.

    Raises:
        UserError: the file cannot be read, or is of another kind than its suffix says.
    """
    if name in _OF_BYTES:
        return _OF_BYTES[name]()
    path = local_path(name)
    if path.suffix == ".json" or path.is_dir():
        return _tokenizer(name)
    return SentencePieceVocabulary(name)


def load_vocabulary(description: Mapping[str, Any], directory: str | Path) -> Vocabulary:
    """Returns the vocabulary of a `description()`, whose files `save` wrote to `directory`.

    Raises:
        CorruptionError: the file differs from its description.
        UserError: the kind of vocabulary is unknown, or its file cannot be read.
    """
    checked(description, _Description, "the description of the vocabulary")
    kind = description["kind"]
    if kind in _OF_BYTES:
        return _OF_BYTES[kind]()
    if kind not in ("sentencepiece", "tokenizer"):
        raise UserError(
            f"the vocabulary kind {kind!r} is unknown; this palmscale supports 'bytes',"
            " 'raw_bytes', 'sentencepiece' and 'tokenizer': use a newer one."
        )
    path = inside(Path(directory), description.get("file", ""))
    if kind == "tokenizer":
        vocabulary = _tokenizer(str(path), description.get("special"))
        if vocabulary.digest != description["digest"]:
            raise _differs(path)
        return vocabulary
    if path.exists():
        content = read_limited(path, _MOST_MODEL_BYTES)
        if hashlib.sha256(content).hexdigest() != description["digest"]:
            raise _differs(path)
    return SentencePieceVocabulary(str(path))


def _tokenizer(path: str, special: Mapping[str, str] | None = None) -> Vocabulary:
    # The module is imported only where it is needed: few have the package it reads with.
    from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary

    return TokenizerVocabulary(path, special)


def _differs(path: Path) -> CorruptionError:
    return CorruptionError(
        f"{path} differs from its stored digest; restore the file, or, if it belongs to a cache,"
        " delete the cache so that it is rebuilt."
    )
