"""A remat policy changes what is saved, by name, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.model.remat import (
    CHOICES,
    GATE,
    NAMES,
    QUERY,
    checked_remat,
    rematerialized_layer,
    save_as,
)


@pytest.mark.parametrize("remat", [*CHOICES, (QUERY,), NAMES, ("query", "gate@host")], ids=str)
def test_choices_and_names_are_accepted(remat):
    assert checked_remat(remat) == remat


def test_a_list_of_names_as_a_checkpoint_has_it_is_a_tuple():
    assert checked_remat(["query", "up"]) == ("query", "up")


@pytest.mark.parametrize("remat", ["all", "query", (), ("query", "x"), ("query@disk",)], ids=str)
def test_anything_else_is_refused_with_all_that_could_be_meant(remat):
    with pytest.raises(UserError) as refusal:
        checked_remat(remat)
    message = str(refusal.value)
    assert message.startswith(f"PaLM.remat={remat!r}") and "\n" not in message
    assert all(name in message for name in (*CHOICES, *NAMES, "@host"))


def two_products(x, w):
    query = save_as(QUERY, x @ w)
    gate = save_as(GATE, jnp.sin(query) @ w)
    return jnp.sin(gate)


def products(remat):
    """How many matrix products a value and its gradient take: two forward, four backward."""
    layer = rematerialized_layer(two_products, remat, in_a_loop=False)
    gradient = jax.grad(lambda x, w: jnp.sum(layer(x, w)), argnums=(0, 1))
    text = str(jax.make_jaxpr(gradient)(jnp.ones((4, 4)), jnp.ones((4, 4))))
    return text.count("dot_general")


def test_what_is_named_is_not_computed_anew():
    assert products("none") == products("attention") == 6
    assert products("full") == 8
    assert products((QUERY,)) == products((GATE,)) == 7
    assert products((QUERY, GATE)) == products("dots") == 6


def test_what_is_kept_on_the_host_is_not_computed_anew_and_goes_there():
    layer = rematerialized_layer(two_products, (QUERY, "gate@host"), in_a_loop=False)
    x, w = jnp.full((4, 4), 0.1), jnp.full((4, 4), 0.2)
    gradient = jax.grad(lambda x, w: jnp.sum(layer(x, w)), argnums=(0, 1))
    text = str(jax.make_jaxpr(gradient)(x, w))
    assert text.count("dot_general") == 6 and "host" in text
    want = jax.grad(lambda x, w: jnp.sum(two_products(x, w)), argnums=(0, 1))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradient(x, w), want)
