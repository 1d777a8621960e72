"""What a SentencePiece BPE model does to a text, for vocabularies of other programs."""

import dataclasses
from collections.abc import Iterator

from palmscale.data.cuts import SPACE
from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceBpe:
    """A BPE model that loses no text but, where it adds one, the space at its beginning.

    Attributes:
        pieces: by id, with U+2581 in place of spaces; bytes are `<0xNN>`.
        scores: of the pieces; of two merges, the one whose product scores higher comes first.
        control: ids of pieces that no text contains: pad, eos, ...
        unknown: the id of the unknown piece.
        adds_space: whether the model puts a space before each text.
    """

    pieces: list[str]
    scores: list[float]
    control: list[int]
    unknown: int
    adds_space: bool

    def merges(self) -> list[tuple[str, str]]:
        """Returns the pairs of pieces that merge into a piece, in the order of priority."""
        special = {self.unknown, *self.control, *self.byte_ids}
        ids = {p: n for n, p in enumerate(self.pieces) if n not in special}
        products = sorted(ids, key=lambda piece: (-self.scores[ids[piece]], ids[piece]))
        return [pair for piece in products for pair in splits(piece) if ids.keys() >= set(pair)]

    @property
    def byte_ids(self) -> list[int]:
        """The id of each byte's piece."""
        ids = {piece: n for n, piece in enumerate(self.pieces)}
        return [ids[f"<0x{byte:02X}>"] for byte in range(256)]


def splits(piece: str) -> Iterator[tuple[str, str]]:
    """Yields each way to cut a piece in two."""
    return ((piece[:n], piece[n:]) for n in range(1, len(piece)))


def read_bpe(vocabulary: SentencePieceVocabulary) -> SentencePieceBpe:
    """Returns the model of a vocabulary.

    Raises:
        UserError: it is of another kind or changes text, which other programs do in other ways.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.content)
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    kinds = model.SentencePiece
    by_kind: dict[int, list[int]] = {}
    for n, piece in enumerate(model.pieces):
        by_kind.setdefault(piece.type, []).append(n)
    for is_so, reason in (
        (trainer.model_type != trainer.BPE, "is not BPE (other programs encode unigram otherwise)"),
        (normalizer.precompiled_charsmap, f"normalizes text ({normalizer.name})"),
        (normalizer.remove_extra_whitespaces, "removes spaces"),
        (not normalizer.escape_whitespaces, f"does not replace spaces by {SPACE}"),
        (trainer.treat_whitespace_as_suffix, "takes spaces as suffixes"),
        (by_kind.get(kinds.USER_DEFINED), "has user-defined pieces"),
        (by_kind.get(kinds.UNUSED), "has unused pieces"),
        (len(by_kind.get(kinds.BYTE, ())) != 256, "has no pieces for the 256 bytes"),
    ):
        if is_so:
            raise UserError(
                f"the vocabulary's SentencePiece model {reason}; only BPE models with byte"
                " fallback that keep text as it is, such as those of `palmscale vocab train`, have"
                " the same ids in other programs."
            )
    return SentencePieceBpe(
        pieces=[piece.piece for piece in model.pieces],
        scores=[piece.score for piece in model.pieces],
        control=by_kind.get(kinds.CONTROL, []),
        unknown=by_kind[kinds.UNKNOWN][0],
        adds_space=normalizer.add_dummy_prefix,
    )
