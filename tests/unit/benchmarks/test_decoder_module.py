import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_training
from flax import linen as nn

from palmscale.optim.build import AdamW
from palmscale.optim.schedules import Constant
from palmscale.train.state import init_state

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from decoder_module import Decoder, plain_attention, splash_attention  # noqa: E402

LLAMA = dict(kv_heads=2, gated=True, parallel=False, tied=False)
MAXTEXT = dict(kv_heads=4, gated=False, parallel=True, tied=True, one_hot_lookup=True)
OPTIMIZER = AdamW(learning_rate=Constant(value=1e-2), beta1=0.9, beta2=0.95, eps=1e-8,
                  weight_decay=0.1, clip_global_norm=1.0)  # fmt: skip
KINDS = pytest.mark.parametrize("kind", [LLAMA, MAXTEXT], ids=["llama", "maxtext"])


def decoder(**fields):
    common = dict(dim=32, depth=2, heads=4, dim_head=8, mlp_dim=64, dtype="float32")
    return Decoder(num_tokens=tiny_training.VOCABULARY, **common | fields)


def initial(model):
    return nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))


@KINDS
def test_the_loss_falls_and_every_parameter_has_its_axes(kind):
    model, losses = decoder(**kind), []
    with tiny_training.training(1, 1, module=model, optimizer=OPTIMIZER) as training:
        state = init_state(training.plan, model, seed=0)
        batch = training.batch(tiny_training.targets(8))
        for _ in range(6):
            state, metrics = training.step(state, batch)
            losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0], losses


@KINDS
def test_logits_do_not_depend_on_what_follows(kind):
    model = decoder(**kind)
    params, tokens_BL = initial(model), tiny_training.targets(2)
    changed_BL = tokens_BL.copy()
    changed_BL[:, 9:] = 0
    logits, other = (model.apply(params, t) for t in (tokens_BL, changed_BL))
    np.testing.assert_allclose(logits[:, :9], other[:, :9], rtol=1e-5, atol=1e-5)
    assert not np.allclose(logits[:, 9:], other[:, 9:])


@pytest.mark.parametrize(
    "changed", [{"remat": "dots"}, {"remat": ("query", "down")}, {"one_hot_lookup": True}]
)
def test_what_is_saved_and_how_tokens_are_looked_up_changes_no_gradient(changed):
    tokens_BL = tiny_training.targets(2)

    def gradients(model):
        return jax.grad(lambda params: jnp.sum(jnp.sin(model.apply(params, tokens_BL))))(params)

    params = initial(decoder(**LLAMA))
    for one, other in zip(
        *(jax.tree.leaves(gradients(decoder(**LLAMA | more))) for more in ({}, changed)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_parameters_are_counted_as_llama_2_70b_has_them():
    model = Decoder(dim=8192, num_tokens=32000, depth=80, heads=64, kv_heads=8, dim_head=128,
                    mlp_dim=28672)  # fmt: skip
    tree = jax.eval_shape(lambda: initial(model))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == 68_976_648_192


def test_the_kernel_takes_and_gives_what_plain_attention_does():
    q = jax.ShapeDtypeStruct((4, 256, 4, 128), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((4, 256, 2, 128), jnp.bfloat16)
    with tiny_training.training(1, 1):
        shapes = [jax.eval_shape(a, q, kv, kv) for a in (plain_attention, splash_attention)]
    assert shapes[0].shape == shapes[1].shape and shapes[0].dtype == shapes[1].dtype
