"""Evaluation: what training calls at a period, how it is described, and the held-out loss.

The loss is in nats per token and in bits per byte, which are comparable across vocabularies.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding

from palmscale.data.feed import held_out_batches
from palmscale.data.row_cache import Split
from palmscale.data.stream import Batch
from palmscale.data.vocabulary import Vocabulary
from palmscale.model.loss import TokenLoss
from palmscale.partition.layout import DeviceLayout
from palmscale.train.step import batch_loss, token_weights

EvalStep = Callable[[Any, Batch], tuple[TokenLoss, jax.Array]]


class Evaluation(Protocol):
    """Anything that training evaluates at a period; all processes call it, at the same steps."""

    every_steps: int | None  # None: at the last step only

    def __call__(self, state: Any) -> dict[str, float]:
        """Returns the metrics of a state, which has `step` and `params`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What an evaluation is told of the model in training, before the first step.

    Attributes:
        model: the module.
        params: shapes of its parameters with their logical axes.
        vocabulary: of its tokens.
        layout: of the parameters, which is entered when the evaluation is called.
        sequence_length: tokens of a row.
        beat: to be called whenever there is progress: a job that stands still is ended.
    """

    model: nn.Module
    params: Any
    vocabulary: Vocabulary
    layout: DeviceLayout
    sequence_length: int
    beat: Callable[[], None]


class DescribedEvaluation(Protocol):
    """A frozen description of an evaluation, as `Run.evaluations` has them.

    It is a dataclass of JSON values, which checkpoints store. It is not part of the run's identity:
    it may change when a run resumes.
    """

    def open(self, subject: Subject) -> Evaluation:
        """Returns the evaluation; what it reads is read here, so that mistakes are told early.

        Called once by all processes.

        Raises:
            UserError: the description cannot be followed.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The evaluation of held-out rows; see `evaluate` for its metrics.

    Attributes:
        every_steps: its period; None: at the last step only.
        splits: the rows, by component of a mixture; those of a run without one are named "".
        weights_at: returns the components' weights at a step.
        eval_step: of the model.
        sharding: of a [batch, length] array.
        batch_sequences: rows a batch.
        max_sequences: rows to read of each component; None: all.
        beat: called before each batch.
    """

    every_steps: int | None
    splits: Mapping[str, Split]
    weights_at: Callable[[int], Mapping[str, float]]
    eval_step: EvalStep
    sharding: NamedSharding
    batch_sequences: int
    max_sequences: int | None
    beat: Callable[[], None] = lambda: None

    def __call__(self, state: Any) -> dict[str, float]:
        """Returns the metrics of anything with `step` and `params`; empty without rows."""
        values = {
            name: self._of_split(split, state.params)
            for name, split in self.splits.items()
            if split.num_rows
        }
        return combine(values, self.weights_at(int(state.step)))

    def _of_split(self, split: Split, params: Any) -> dict[str, float]:
        batches, bytes_per_token = self._batches(split), split.loss_bytes_per_token
        return evaluate(self.eval_step, params, batches, bytes_per_token=bytes_per_token)

    def _batches(self, split: Split) -> Iterator[Batch]:
        for batch in held_out_batches(
            split,
            sharding=self.sharding,
            batch_sequences=self.batch_sequences,
            max_sequences=self.max_sequences,
        ):
            self.beat()
            yield batch


def make_eval_step(*, model: nn.Module, bos_id: int, loss_chunk_length: int) -> EvalStep:
    """Returns (params, batch) -> (summed losses, summed weights), compiled on first use."""

    def eval_step(params: Any, batch: Batch) -> tuple[TokenLoss, jax.Array]:
        loss = batch_loss(
            model, params, batch, bos_id=bos_id, z_loss=0.0, chunk_length=loss_chunk_length
        )
        return loss, jnp.sum(token_weights(batch))

    return jax.jit(eval_step)


def evaluate(
    eval_step: EvalStep, params: Any, batches: Iterable[Batch], *, bytes_per_token: float | None
) -> dict[str, float]:
    """Returns `eval_loss` (nats per token), `eval_bits_per_byte` and `eval_accuracy`.

    Sums are weighted by token and computed on the host in float64, in batch order. Without batches,
    the result is empty. `bytes_per_token` are the UTF-8 bytes per token with loss; if None, because
    they are not known, bits per byte are omitted.
    """
    cross_entropy = correct = tokens = 0.0
    for batch in batches:
        # Read immediately: with one step in flight, simulated devices cannot block one another.
        loss, weight = jax.device_get(eval_step(params, batch))
        cross_entropy += float(loss.cross_entropy)
        correct += float(loss.correct)
        tokens += float(weight)
    if not tokens:
        return {}
    values = {"eval_loss": cross_entropy / tokens}
    if bytes_per_token is not None:
        values["eval_bits_per_byte"] = values["eval_loss"] / math.log(2) / bytes_per_token
    return values | {"eval_accuracy": correct / tokens}


def combine(
    values: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]
) -> dict[str, float]:
    """Returns each component's metrics as `metric/component`, and their mean as `metric`.

    The mean is weighted, over the components in `values`; it is omitted if their total weight is 0.
    The metrics of a single component without a name are returned unchanged.
    """
    if set(values) == {""}:
        return dict(values[""])
    each = {f"{metric}/{name}": x for name, own in values.items() for metric, x in own.items()}
    total = sum(weights[name] for name in values)
    mean: dict[str, float] = {}
    for name, own in values.items() if total else ():
        for metric, value in own.items():
            mean[metric] = mean.get(metric, 0.0) + value * weights[name] / total
    return mean | each
