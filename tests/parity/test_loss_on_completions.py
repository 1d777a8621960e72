"""The loss of fine-tuning, from the lines of a file to its gradient, against NumPy in float64.

NumPy sees each example alone, from its prompt and completion as text: it knows neither rows, nor
packing, nor weights.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy_palm import in_float64, logits

from palmscale import PaLM
from palmscale.data.dataset import Data
from palmscale.data.feed import Feed
from palmscale.data.open import local_processes, open_caches, training_stream
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.stream import BatchSchedule
from palmscale.train.step import batch_loss, token_weights

SEPARATOR, LENGTH, Z_LOSS = " = ", 24, 1e-2
EXAMPLES = [("2+2", "4"), ("", "no prompt"), ("reverse ab", "ba"), ("é", "naïve"), ("a", "b" * 30)]
EXAMPLES += [("q" * LENGTH, "its prompt fills a row")]  # left out
MODEL = PaLM(dim=32, num_tokens=259, depth=2, heads=4, dim_head=8)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A model whose hidden output has a parameter added to it, [B, L, D]: it gets the gradient."""

    palm: PaLM

    def apply(self, variables, x, *, method, **options):
        params = variables["params"]
        out = self.palm.apply({"params": params["palm"]}, x, method=method, **options)
        return out + params["shift_BLD"] if method == "hidden" else out


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    return jax.tree.map(lambda box: box.value, params, is_leaf=lambda x: hasattr(x, "value"))


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """All rows of a file of examples, as a run reads them."""
    folder = tmp_path_factory.mktemp("examples")
    records = [{"ask": {"q": prompt}, "answer": text} for prompt, text in EXAMPLES]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = Jsonl(
        files=f"{folder}/a.jsonl", prompt_key="ask.q", text_key="answer", separator=SEPARATOR
    )
    data = Data(
        corpus=Corpus(source=source, held_out_fraction=0),
        sequence_length=LENGTH,
        packing="segments",
        seed=0,
        cache_directory=str(folder),
    )
    opened = open_caches(data, executor=local_processes(1))
    rows = opened[""].split("train").num_rows
    stream = training_stream(data, opened, BatchSchedule(((0, rows),)))
    sharding = NamedSharding(Mesh(jax.devices()[:1], ("data",)), PartitionSpec("data"))
    feed = Feed(stream, sharding, stream.cursor(0))
    try:
        return next(feed)[1]
    finally:
        feed.close()


def by_hand(params, prompt, completion):
    """The losses of an example's completion, in order, with their gradients: (tokens, D)."""
    before, target_L = ids_of(prompt, completion)
    input_L = np.array([0, *target_L[:-1]])
    logits_LV = logits(params, input_L, "scaled")[before:]
    target_L = target_L[before:]
    z_L = np.log(np.exp(logits_LV).sum(-1))
    right = np.arange(len(target_L)), target_L
    slope_LV = np.exp(logits_LV - z_L[:, None]) * (1 + 2 * Z_LOSS * z_L[:, None])
    slope_LV[right] -= 1
    slope_LD = slope_LV @ params["embedding"] / np.sqrt(MODEL.dim)
    return z_L - logits_LV[right], Z_LOSS * z_L**2, slope_LD


def ids_of(prompt, completion):
    """The number of tokens of a prompt, and all tokens of an example: byte b is id b + 3."""
    before = (prompt + SEPARATOR).encode()
    return len(before), np.array([*(b + 3 for b in before + completion.encode()), 1])[:LENGTH]


def test_completions_alone_have_loss_and_gradient_as_computed_by_hand(batch, params):
    def objective(shift_BLD):
        both = {"palm": params, "shift_BLD": shift_BLD}
        options = dict(bos_id=0, z_loss=Z_LOSS, chunk_length=16)
        loss = batch_loss(Shifted(MODEL), both, batch, **options)
        return loss.objective, loss

    shape = (*batch.target_BL.shape, MODEL.dim)
    slope_BLD, loss = jax.jit(jax.grad(objective, has_aux=True))(np.zeros(shape, np.float32))
    slope_BLD, weight_BL = np.asarray(slope_BLD), np.asarray(token_weights(batch))
    fitting = [pair for pair in EXAMPLES if len(pair[0]) < LENGTH]
    expected = {
        tuple(ids_of(*pair)[1].tolist()): by_hand(in_float64(params), *pair) for pair in fitting
    }
    losses, z_losses, _ = map(np.concatenate, zip(*expected.values()))
    np.testing.assert_allclose(loss.cross_entropy, losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.z_loss, z_losses.sum(), rtol=1e-5)
    assert weight_BL.sum() == len(losses) < weight_BL.size

    assert not np.any(slope_BLD[weight_BL == 0])  # prompts and padding
    found = []
    for row, segments in enumerate(np.asarray(batch.segment_BL)):
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            ids = tuple(np.asarray(batch.target_BL)[row, here].tolist())
            slope_LD = slope_BLD[row, here & (weight_BL[row] == 1)]
            np.testing.assert_allclose(slope_LD, expected[ids][2], atol=1e-5)
            found.append(ids)
    assert sorted(found) == sorted(expected)
