"""Descriptions of the rows to train on: text or built caches, and in a mixture their weights."""

import dataclasses
import math
import re

from palmscale.data.pack import CONCATENATE
from palmscale.data.sources.corpus import Corpus
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A component of a mixture: text or a built cache, and its weight.

    Attributes:
        name: in metrics and messages; letters, digits, - and _.
        weight: relative to the weights of the other components; or pairs (first step, weight), of
            which the first has step 0. A weight changes at the row number that the batch schedule
            assigns to the step; after skipping n rows, that is n rows before the step.
        corpus: the text.
        cache: folder of a built cache, or gs://BUCKET/PATH of one, in place of the text.

    Raises:
        UserError: a field is invalid.
    """

    name: str
    weight: float | tuple[tuple[int, float], ...]
    corpus: Corpus | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name, re.ASCII):
            raise UserError(
                f"Component.name={self.name!r} is invalid; use letters, digits, - and _."
            )
        if (self.corpus is None) == (self.cache is None):
            raise UserError(
                f"the component {self.name} has {'neither' if self.corpus is None else 'both'} of"
                " Component.corpus and Component.cache; set one of them."
            )
        steps, weights = zip(*self.weights, strict=True) if self.weights else ((), ())
        if (
            steps[:1] != (0,)
            or any(a >= b for a, b in zip(steps, steps[1:]))
            or any(weight < 0 or not math.isfinite(weight) for weight in weights)
        ):
            raise UserError(
                f"the component {self.name} has Component.weight={self.weight!r}; expected a number"
                " that is at least 0, or pairs (first step, weight) with steps that start at 0 and"
                " increase, for example ((0, 50), (10_000, 25))."
            )

    @property
    def weights(self) -> tuple[tuple[int, float], ...]:
        """The weight as pairs (first step, weight)."""
        return self.weight if isinstance(self.weight, tuple) else ((0, self.weight),)

    def weight_at(self, step: int) -> float:
        """Returns the weight in the batch of `step`."""
        return next(weight for first, weight in reversed(self.weights) if first <= step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The rows to train on.

    Attributes:
        corpus: the text, whose cache is built on first use.
        components: a mixture, in place of `corpus`. A component whose weight is 0 throughout is
            left out.
        vocabulary: `bytes` (of UTF-8), `raw_bytes` (without special ids), or the path of a
            SentencePiece model or of a tokenizer.json of Hugging Face; None: `sentencepiece_model`.
        sentencepiece_model: path of a SentencePiece model; None: the bytes of UTF-8.
        sequence_length: tokens per row.
        packing: `concatenate`, for pretraining, joins documents and splits them at the sequence
            length, without padding; `segments`, for fine-tuning, places whole documents side by
            side, each attending only to itself.
        seed: of the order of documents and rows.
        cache_directory: folder in which caches are found or built; gs://BUCKET/PATH for caches that
            hosts share, of which each keeps a copy on its disk. None: in the user's own folder.
        cache: folder of a built cache, or gs://BUCKET/PATH of one, in place of `corpus` and all
            that determines its rows.
        import_modules: modules to import in every process that reads text, such as those that
            register SeqIO tasks.

    Raises:
        UserError: the fields contradict one another.
    """

    corpus: Corpus | None = None
    components: tuple[Component, ...] = ()
    sequence_length: int
    seed: int
    packing: str = CONCATENATE
    vocabulary: str | None = None
    sentencepiece_model: str | None = None
    cache_directory: str | None = None
    cache: str | None = None
    import_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vocabulary is not None and self.sentencepiece_model is not None:
            raise UserError(
                f"Data.vocabulary={self.vocabulary!r} and Data.sentencepiece_model="
                f"{self.sentencepiece_model!r} are both set; set one of them to None."
            )
        if not self.components:
            if self.corpus is None and self.cache is None:
                raise UserError(
                    "Data.corpus, Data.components and Data.cache are all unset; set one of them."
                )
            return
        if self.corpus is not None or self.cache is not None:
            raise UserError(
                "Data.components replaces Data.corpus and Data.cache, but more than one of them is"
                " set; set Data.corpus and Data.cache to None."
            )
        names = [component.name for component in self.components]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"Data.components contains the name {repeated[0]} more than once; change one"
                " Component.name."
            )
        for step, weights in self.weight_stages():
            if not any(weights.values()):
                raise UserError(
                    f"all components have weight 0 from step {step}; make at least one"
                    " Component.weight positive."
                )

    @property
    def mixed(self) -> tuple[Component, ...]:
        """The components that have a positive weight at some step."""
        return tuple(part for part in self.components if any(w for _, w in part.weights))

    def parts(self) -> dict[str, "Data"]:
        """Returns the data of each mixed component by name; without components, itself, as ""."""
        if not self.components:
            return {"": self}
        return {
            part.name: dataclasses.replace(
                self, components=(), corpus=part.corpus, cache=part.cache
            )
            for part in self.mixed
        }

    def weight_stages(self) -> list[tuple[int, dict[str, float]]]:
        """Returns pairs (first step, weights by component), one for each change of a weight."""
        steps = {step for component in self.components for step, _ in component.weights}
        return [(step, self.weights_at(step)) for step in sorted(steps)]

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns the weight of each mixed component at `step`; {"": 1} without components."""
        return {part.name: part.weight_at(step) for part in self.mixed} or {"": 1.0}
