"""Which layouts of a run are worth compiling.

Arithmetic alone ranks choices here: it leaves out what cannot fit and what is surely slower. Its
numbers are never shown as a prediction; that is made from the compiled program. What arithmetic
cannot tell, the compiler's options, is varied afterwards, on the best that was compiled.
"""

import dataclasses
from collections.abc import Iterable

from palmscale.model.remat import ON_HOST
from palmscale.plan.hardware.network import HOST_BYTES_PER_SECOND
from palmscale.plan.search.choices import Choice, Shape, choices


def estimated_bytes(choice: Choice, shape: Shape) -> float:
    """Returns roughly the peak memory of a device."""
    split = choice.data * choice.model
    tokens = _tokens(choice, shape)
    # Parameters and two moments in float32, gradients, and parameters in bfloat16.
    state = (12 + 4 + 2 + 4 * (choice.gradient_accumulation_steps > 1)) * shape.params / split
    saved = shape.layers * tokens * 2 * sum(_saved(choice, shape, on_host=False).values())
    layer = tokens * 2 * (3 * shape.width + 6 * shape.mlp / choice.model)
    weights = 4 * shape.layer_params / choice.model
    logits = 10 * tokens * choice.loss_chunk_length / shape.length * shape.vocabulary / choice.model
    table = 6 * shape.vocabulary * shape.width / choice.model
    return state + saved + max(layer + weights, logits + table)


def estimated_seconds(choice: Choice, shape: Shape) -> float:
    """Returns roughly how long a step takes; good enough only for ranking."""
    tokens, peak = _tokens(choice, shape), shape.chip.device_peak_flops
    head_pairs = shape.heads * shape.head_size * shape.length  # causal: half of 2 x 2 matmuls
    forward = 2 * tokens * (shape.layer_params + head_pairs) / choice.model
    copied = _saved(choice, shape, on_host=True)
    saved = _saved(choice, shape, on_host=False) | copied
    products = {  # the cost of recomputing each
        "query": 2 * tokens * shape.width * shape.heads * shape.head_size / choice.model,
        "attention": 2 * tokens * head_pairs / choice.model,
        "gate": 2 * tokens * shape.width * shape.mlp / choice.model,
        "up": 2 * tokens * shape.width * shape.mlp / choice.model,
    }
    recomputed = sum(cost for name, cost in products.items() if name not in saved)
    head = 6 * tokens * shape.vocabulary * shape.width / choice.model
    compute = (
        choice.gradient_accumulation_steps
        * (shape.layers * (3 * forward + recomputed) + head)
        / peak
    )
    over_replicas, along_data, along_model = shape.ways(choice.replicas, choice.data, choice.model)
    weights = 2 * shape.layer_params / choice.model * (choice.data - 1) / choice.data
    passes = {"embed": 6, "sequence": 6, "replicated": 8}[choice.residual] + ("norm" not in saved)
    activations = 2 * tokens * shape.width * (choice.model - 1) / choice.model
    layers = choice.gradient_accumulation_steps * shape.layers
    gathers = layers * 2 * weights / along_data if choice.data > 1 else 0.0
    waits = layers * weights / along_data if choice.data > 1 else 0.0
    waits += layers * passes * activations / along_model if choice.model > 1 else 0.0
    if choice.replicas > 1:  # each sums its shards of the gradients, in bfloat16
        shards = 2 * shape.layer_params / (choice.model * choice.data)
        waits += layers * 2 * shards * (choice.replicas - 1) / choice.replicas / over_replicas
    # What goes to the host hides behind the forward pass, and comes back behind the other.
    copies = layers * tokens * 2 * sum(copied.values()) / HOST_BYTES_PER_SECOND
    forwards = layers * forward / peak
    waits += max(0.0, copies - forwards) + max(0.0, copies - (compute - forwards))
    return max(compute, gathers) + waits


def promising(found: Iterable[Choice], shape: Shape, count: int) -> list[Choice]:
    """Returns the choices to compile: those that seem to fit, the fastest first, no two too alike.

    Of choices that differ in loss chunks alone the arithmetic cannot tell which is faster, so only
    the largest of these that fits is kept.
    """
    room = 0.95 * shape.offered_bytes
    fitting = [one for one in found if estimated_bytes(one, shape) <= room]
    fitting.sort(key=lambda one: (estimated_seconds(one, shape), -one.loss_chunk_length))
    kept: dict[Choice, Choice] = {}
    for one in fitting:
        kept.setdefault(dataclasses.replace(one, loss_chunk_length=1), one)
        if len(kept) == count:
            break
    return list(kept.values())


def remedies(base: Choice, shape: Shape, count: int) -> list[Choice]:
    """Returns near choices that hold less, those with the fewest changes and least time first."""
    held = estimated_bytes(base, shape)
    less = [
        one
        for one in choices(shape, base.options)
        if one.replicas <= base.replicas and estimated_bytes(one, shape) < 0.9 * held
    ]
    less.sort(key=lambda one: (one.distance(base), estimated_seconds(one, shape)))
    fitting = [one for one in less if estimated_bytes(one, shape) <= shape.offered_bytes]
    return (fitting or less)[:count]


def _tokens(choice: Choice, shape: Shape) -> float:
    """Of one device and accumulation step, as `data`, replicas and slices split them."""
    parts = shape.slices * choice.replicas * choice.data * choice.gradient_accumulation_steps
    return shape.sequences * shape.length / parts


def _saved(choice: Choice, shape: Shape, *, on_host: bool) -> dict[str, float]:
    """Returns elements a token and layer that a device saves, or its host for it, by name."""
    heads = shape.heads * shape.head_size / choice.model
    mlp = shape.mlp / choice.model
    sizes = {
        "query": heads,
        "key": shape.head_size,
        "value": shape.head_size,
        "attention": heads,
        "norm": shape.width,
        "gate": mlp,
        "up": mlp,
    }
    by_choice: dict[str, tuple[str, ...]] = {
        "full": (),
        "dots": ("query", "key", "value", "gate", "up"),
        "attention": tuple(sizes),
        "none": tuple(sizes),
    }
    names = by_choice[choice.remat] if isinstance(choice.remat, str) else choice.remat
    if on_host:
        found = {name.removesuffix(ON_HOST) for name in names if name.endswith(ON_HOST)}
        return {name: sizes[name] for name in sizes if name in found}
    residual = shape.width / (1 if choice.residual == "replicated" else choice.model)
    return {"residual": residual, **{name: sizes[name] for name in names if name in sizes}}
