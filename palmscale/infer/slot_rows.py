"""The sampling rows of an engine's slots; what no request has needed yet takes no memory."""

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.infer.draw import Rows
from palmscale.infer.sampling import Sampling, bias_of, row_of

_GREEDY = row_of(Sampling(temperature=0.0), 0)
_PENALTIES = ("repetition_B", "presence_B", "frequency_B")


def empty_rows(slots: int) -> Rows:
    """Returns the rows of idle slots."""
    entries = {name: value for name, value in _GREEDY.items() if name not in _PENALTIES}
    return Rows(**{name: _repeated(value, slots) for name, value in entries.items()})


def with_row(
    rows: Rows, slot: int, sampling: Sampling, seed: int, prompt: np.ndarray, size: int
) -> Rows:
    """Returns the rows with a new sequence in a slot.

    Args:
        rows: of all slots; once a request has penalties or a bias, all rows have them.
        slot: of the sequence.
        sampling: of the sequence.
        seed: of the sequence.
        prompt: its ids, int32 [L].
        size: V, the ids that have logits.
    """
    slots, entry = rows.key_B2.shape[0], row_of(sampling, seed)
    if sampling.penalizes and rows.seen_BV is None:
        neutral = {name: _repeated(_GREEDY[name], slots) for name in _PENALTIES}
        seen_BV = np.zeros((slots, size), bool)
        rows = rows.replace(**neutral, seen_BV=seen_BV, count_BV=seen_BV.astype(np.int32))
    if sampling.logit_bias and rows.bias_BV is None:
        rows = rows.replace(bias_BV=np.zeros((slots, size), np.float32))
    if rows.bias_BV is not None:
        entry["bias_BV"] = bias_of(sampling, size)
    if rows.seen_BV is None:
        entry = {name: value for name, value in entry.items() if name not in _PENALTIES}
    else:
        entry["seen_BV"] = np.zeros(size, bool)
        entry["seen_BV"][np.asarray(prompt)] = True
        entry["count_BV"] = np.zeros(size, np.int32)
    return _written(rows, np.int32(slot), Rows(**entry))


@jax.jit
def _written(rows: Rows, slot: jax.Array, entry: Rows) -> Rows:
    rows = rows.replace(allowed_BV=None)
    return jax.tree.map(lambda all_, one: jnp.asarray(all_).at[slot].set(one), rows, entry)


def _repeated(value: np.ndarray, slots: int) -> np.ndarray:
    return np.broadcast_to(value, (slots, *np.shape(value))).copy()
