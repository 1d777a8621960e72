"""Batches, steps and schedule for a model of a given size, for a first run file."""

import dataclasses
import math
import re

# PaLM 540B holds its learning rate for 10,000 of 255,000 steps (section 5).
_HOLD = 10_000 / 255_000
_TOKENS_PER_PARAMETER = 20  # about where a fixed budget of FLOPs is spent best: arXiv:2203.15556


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Settings that follow from a number of parameters.

    Attributes:
        sequence_length: tokens per row.
        batch_sequences: sequences per step.
        steps: in all, for 20 tokens per parameter.
        hold_steps: steps until the learning rate falls: the paper's share of all.
    """

    sequence_length: int
    batch_sequences: int
    steps: int
    hold_steps: int


def recommend(parameters: int) -> Recommendation:
    """Returns the recommended settings for a model of `parameters` parameters.

    The batch grows with the model, from 4,096 tokens at a million parameters to 260,000 at a
    billion and the paper's 4 million. Sequences are powers of two, which divide over most meshes.
    """
    sequence_length = 2048
    for limit, length in ((5e6, 256), (100e6, 512), (1e9, 1024)):
        if parameters < limit:
            sequence_length = length
            break
    tokens = 4096 * (parameters / 1e6) ** 0.6
    batch_sequences = min(max(16, 2 ** round(math.log2(tokens / sequence_length))), 2048)
    steps = _TOKENS_PER_PARAMETER * parameters / (batch_sequences * sequence_length)
    steps = max(1000, _two_digits(steps))
    return Recommendation(
        sequence_length=sequence_length,
        batch_sequences=batch_sequences,
        steps=steps,
        hold_steps=_two_digits(_HOLD * steps),
    )


def _two_digits(number: float) -> int:
    """Returns the number rounded to two digits, at least 1."""
    unit = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return max(1, round(number / unit) * unit)


def source_of(pattern: str) -> str:
    """Returns which parameter of `one_of` reads the files of a pattern, by their suffix."""
    name = re.sub(r"\.(gz|gzip|zst|zstd|bz2|xz)$", "", pattern.casefold())
    for suffixes, parameter in (
        ((".jsonl", ".json"), "jsonl_files"),
        (".parquet", "parquet_files"),
    ):
        if name.endswith(suffixes):
            return parameter
    return "text_files"
