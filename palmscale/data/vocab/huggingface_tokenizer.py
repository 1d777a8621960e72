"""Vocabularies in Hugging Face's tokenizer.json, read by the package `tokenizers`."""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.data.vocab.byte_letters import byte_letters
from palmscale.errors import UserError
from palmscale.storage.inside import read_limited
from palmscale.storage.place import Place, local_path

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MOST_BYTES = 1 << 28  # the largest of public models have 35 MB
_MOST_IDS = 10_000_000
_SPECIAL = {  # as tokenizer_config.json names them, and what they are called without it
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]"),
    "bos_token": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[BOS]"),
    "pad_token": ("<pad>", "<|padding|>", "<|pad|>", "[PAD]"),
}
_BLOCK, _OVERLAP, _TRIES = 100_000, 2_000, 50  # characters; places to cut that are tried
_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class TokenizerVocabulary:
    """The tokens of a tokenizer.json; special tokens in a text are ordinary text.

    The tokens that end and begin a document and that pad are those that a tokenizer_config.json
    beside the file names, or else those with the usual names. Without one that begins, a document
    begins with the token that ends the one before it, as in GPT-NeoX; without one that pads, this
    token pads as well.

    A text of more than 100,000 characters is encoded in blocks, so that memory is bounded. A block
    ends where the text after it, encoded by itself, continues with the same tokens.

    Attributes:
        settings: those of the file, without what would cut or pad texts, add tokens, or draw tokens
            at random.

    Raises:
        UserError: the file cannot be read, its tokens cannot be told as bytes, it has no token that
            ends a document, or the package `tokenizers` is missing.
    """

    name = "tokenizer"

    def __init__(self, path: str, special: Mapping[str, str] | None = None) -> None:
        """Reads a file.

        Args:
            path: of the file, or of a folder with a tokenizer.json.
            special: tokens by what tokenizer_config.json calls them; None: as it names them.
        """
        self.model_file = str(path)
        file = local_path(path)
        file = file / _FILE if file.is_dir() else file
        try:
            self._content = read_limited(file, _MOST_BYTES)
        except OSError as error:
            raise UserError(
                f"the tokenizer {str(path)!r} cannot be read ({error.strerror}); correct the path."
            ) from None
        config = _config(file.parent / _CONFIG) if special is None else special
        self._tokenizer, self.settings = _opened(self._content, self.model_file)
        self._token_bytes = self._find_token_bytes()
        self.size = len(self._token_bytes)
        self._choose_special(config)
        told = json.dumps([self.eod_id, self.bos_id, self.pad_id]).encode()
        self.digest = hashlib.sha256(self._content + told).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._content, self.model_file, self.__dict__ | {"_tokenizer": None})

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the text, int32; see `Vocabulary`, as for all of these."""
        text.encode()  # raises what callers expect of text that is not UTF-8
        ids = [np.asarray(block, np.int32) for block in self._encoded(text)]
        return np.concatenate(ids) if ids else np.zeros(0, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids."""
        flat = np.asarray(ids, np.int64).reshape(-1).tolist()
        kept = [i for i in flat if 0 <= i < self.size and self._token_bytes[i] is not None]
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def token_bytes(self) -> list[bytes | None]:
        """Returns the bytes that each id adds to a text; None: it is special."""
        return list(self._token_bytes)

    def special_tokens(self) -> dict[str, str]:
        """Returns the tokens that end, begin and pad, as tokenizer_config.json calls them."""
        ids = {"eos_token": self.eod_id, "bos_token": self.bos_id, "pad_token": self.pad_id}
        return {role: self._tokenizer.id_to_token(token_id) for role, token_id in ids.items()}

    def description(self) -> dict[str, Any]:
        """Returns what `load_vocabulary` needs besides the file."""
        sizes = {"size": self.size, "digest": self.digest}
        return {"kind": self.name, **sizes, "file": _FILE, "special": self.special_tokens()}

    def save(self, directory: Place) -> None:
        """Writes the file, and its special tokens beside it."""
        (directory / _FILE).write_bytes(self._content)
        # For whoever opens the file by its path; `load_vocabulary` knows them from the description.
        (directory / _CONFIG).write_bytes(json.dumps(self.special_tokens(), indent=2).encode())

    def _encoded(self, text: str) -> Iterator[list[int]]:
        start = 0
        while len(text) - start > _BLOCK + _OVERLAP:
            window = text[start : start + _BLOCK + _OVERLAP]
            encoding = self._tokenizer.encode(window, add_special_tokens=False)
            cut = self._cut(window, encoding.ids, encoding.offsets)
            if cut is None:
                break
            tokens, characters = cut
            yield encoding.ids[:tokens]
            start += characters
        if rest := text[start:]:
            yield self._tokenizer.encode(rest, add_special_tokens=False).ids

    def _cut(
        self, window: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """Returns (tokens, characters) of the longest block that a window begins with, if any."""
        tried = 0
        for n in range(len(ids) - 1, 0, -1):
            start = offsets[n][0]
            is_boundary = offsets[n - 1][1] <= start and not window[start - 1].isspace()
            if start > _BLOCK or not (is_boundary and window[start].isspace()):
                continue
            after = self._tokenizer.encode(window[start:], add_special_tokens=False).ids
            if after == ids[n:]:
                return n, start
            tried += 1
            if tried == _TRIES:
                break
        return None

    def _find_token_bytes(self) -> list[bytes | None]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values(), default=-1) + 1
        if not 0 < size <= _MOST_IDS:
            raise UserError(f"{self.model_file!r} has {size:,} ids; expected 1 to {_MOST_IDS:,}.")
        bytes_of = _bytes_of(self.settings, self.model_file)
        found: list[bytes | None] = [None] * size
        for token, token_id in vocabulary.items():
            found[token_id] = bytes_of(token)
        if (unknown := vocabulary.get(self.settings["model"].get("unk_token"))) is not None:
            found[unknown] = None
        for added in self.settings.get("added_tokens") or ():
            if added.get("special") and added["content"] in vocabulary:
                found[vocabulary[added["content"]]] = None
        return found

    def _choose_special(self, config: Mapping[str, Any]) -> None:
        found = {}
        for role, usual in _SPECIAL.items():
            given = config.get(role)
            given = given.get("content") if isinstance(given, Mapping) else given
            for token in usual if given is None else (given,):
                token_id = self._tokenizer.token_to_id(str(token))
                if token_id is not None:
                    found[role] = token_id
                    break
            else:
                if given is not None:
                    raise UserError(
                        f"{self.model_file!r} has no token {given!r}, which is named as its {role};"
                        f" correct {_CONFIG} beside it."
                    )
        if "eos_token" not in found:
            raise UserError(
                f"{self.model_file!r} has no token that ends a document (such as"
                f" {' or '.join(_SPECIAL['eos_token'][:2])}); name one as eos_token in a"
                f" {_CONFIG} beside it."
            )
        self.eod_id = found["eos_token"]
        self.bos_id = found.get("bos_token", self.eod_id)
        self.pad_id = found.get("pad_token", self.eod_id)
        for token_id in (self.eod_id, self.bos_id, self.pad_id):
            self._token_bytes[token_id] = None


def _opened(content: bytes, name: str) -> tuple[Any, dict[str, Any]]:
    """Returns the tokenizer and its settings, without what belongs to training and batches."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise UserError(
            f"{name!r} needs the package tokenizers, which is not installed; install it:"
            " pip install 'palmscale[tokenizers]'."
        ) from None
    try:
        settings = json.loads(content)
        # These would cut or pad texts, add tokens, move offsets, and draw tokens at random.
        settings |= {"truncation": None, "padding": None, "post_processor": None}
        if "dropout" in settings["model"]:
            settings["model"] = {**settings["model"], "dropout": None}
        tokenizer = Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(
            f"{name!r} is not a tokenizer.json of Hugging Face ({str(error)[:150]}); expected the"
            " file that the package tokenizers writes."
        ) from None
    tokenizer.encode_special_tokens = True
    return tokenizer, settings


def _restored(content: bytes, name: str, state: Mapping[str, Any]) -> TokenizerVocabulary:
    vocabulary = TokenizerVocabulary.__new__(TokenizerVocabulary)
    vocabulary.__dict__ |= {**state, "_tokenizer": _opened(content, name)[0]}
    return vocabulary


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(read_limited(path, _MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); correct or remove it.") from None
    return config if isinstance(config, Mapping) else {}


def _bytes_of(settings: Mapping[str, Any], name: str) -> Callable[[str], bytes]:
    """Returns the function from a token to its bytes, which the tokenizer's decoder determines."""
    decoder = settings.get("decoder") or {}
    kinds = {part.get("type") for part in (decoder, *decoder.get("decoders", ()))}
    if "ByteLevel" in kinds:
        letters = {letter: byte for byte, letter in enumerate(byte_letters())}
        return functools.partial(_of_letters, letters)
    if kinds & {"ByteFallback", "Metaspace"}:
        return _of_piece
    told = " and ".join(sorted(kind for kind in kinds if kind)) or "none"
    raise UserError(
        f"{name!r} decodes by {told}, from which bytes of text do not come back; expected a"
        " tokenizer that decodes by ByteLevel, ByteFallback or Metaspace."
    )


def _of_letters(letters: Mapping[str, int], token: str) -> bytes:
    if all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return token.encode()


def _of_piece(token: str) -> bytes:
    if byte := _BYTE_PIECE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("\u2581", " ").encode()
