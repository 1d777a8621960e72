"""A lowered step, and what the planner's arithmetic needs to know of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from palmscale.plan.program.saved_activations import Saved


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step to plan, lowered for its mesh.

    Attributes:
        compile: compiles the lowered program, as the run itself would.
        digest: of the lowered program.
        mesh: over the topology's devices.
        params: shapes with shardings.
        optimizer_state: likewise.
        tokens: a step.
        sequence_length: tokens a row.
        num_params: as the paper counts them: no norm scales, no padding.
        weight_flops_per_token: model FLOPs of the matmuls with weights.
        attention_flops_per_token: model FLOPs of attention, without a causal mask.
        matmul_flops: computed by all devices together, rematerialization included; kernels apart.
        layers: N.
        vocabulary: rows of the token table.
        saved: (dtype, shape, bytes of all devices) of what the backward pass finds saved.
    """

    compile: Callable[[], jax.stages.Compiled]
    digest: str
    mesh: Mesh
    params: Any
    optimizer_state: Any
    tokens: int
    sequence_length: int
    num_params: int
    weight_flops_per_token: float
    attention_flops_per_token: float
    matmul_flops: float
    layers: int
    vocabulary: int
    saved: tuple[Saved, ...] = ()

    @property
    def model_flops(self) -> float:
        """Model FLOPs of a step, whole attention counted (PaLM, appendix B)."""
        return self.tokens * (self.weight_flops_per_token + self.attention_flops_per_token)

    @property
    def causal_flops(self) -> float:
        """The same with the half of attention that a causal mask leaves."""
        return self.tokens * (self.weight_flops_per_token + self.attention_flops_per_token / 2)
