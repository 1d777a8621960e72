"""Where a run's parameters and optimizer state live, and what they cost each device."""

import dataclasses
import math
from collections.abc import Mapping

from palmscale import axes
from palmscale.model import interface
from palmscale.model.sizes import ParameterCounts, count_parameters
from palmscale.observe import units
from palmscale.optim.interface import name_of
from palmscale.partition.rules import TABLES, MeshAxes
from palmscale.partition.shardings import ArrayLayout, audit
from palmscale.run.run import Run
from palmscale.train.state import abstract_state

Fact = tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateLayout:
    """The layout of a run's state over a mesh, whose devices need not exist.

    Attributes:
        run: whose state it is.
        axis_sizes: of the mesh, by axis.
        counts: of the parameters.
        params: each parameter's layout.
        optimizer_state: each of its arrays' layout.
    """

    run: Run
    axis_sizes: Mapping[str, int]
    counts: ParameterCounts
    params: list[ArrayLayout]
    optimizer_state: list[ArrayLayout]

    @classmethod
    def of(cls, run: Run, axis_sizes: Mapping[str, int]) -> "StateLayout":
        """Returns the layout of a run's state, by tracing alone.

        Raises:
            UserError: a batch or a parameter does not divide over the mesh.
        """
        run.training.check_batches(axis_sizes[axes.REPLICA] * axis_sizes[axes.DATA])
        rules = run.layout.table()
        state, *_ = abstract_state(run.model, run.optimizer, trainable=run.trainable)
        return cls(
            run=run,
            axis_sizes=axis_sizes,
            counts=count_parameters(state.params, run.model),
            params=audit(state.params, axis_sizes, rules),
            optimizer_state=audit(state.optimizer_state, axis_sizes, rules),
        )

    def parameter_rows(self) -> tuple[list[str], list[list[str]]]:
        """Returns the headings and rows of a table of the parameters."""
        rows = [
            [
                array.name,
                " ".join(map(str, array.shape)),
                " ".join(name or "-" for name in array.names),
                " ".join(map(_axes_text, array.mesh_axes)),
                units.size(array.bytes_per_device),
            ]
            for array in self.params
        ]
        return ["parameter", "shape", "logical axes", "mesh axes", "a device"], rows

    def facts(self) -> list[Fact]:
        """Returns the mesh, the rules, the totals, and what is replicated."""
        return [*self._layout(), *self._counts(), *self._bytes(), *self._replicated()]

    def _layout(self) -> list[Fact]:
        mesh = " x ".join(f"{name}={size}" for name, size in self.axis_sizes.items())
        rules = self.run.layout.rules
        changed = [
            f"{name} -> {_axes_text(target)}"
            for name, target in self.run.layout.overrides.items()
            if TABLES[rules].get(name) != target
        ]
        return [
            ("mesh", f"{math.prod(self.axis_sizes.values()):,} device(s): {mesh}"),
            ("rules", f"{rules}{', with ' if changed else ''}{', '.join(changed)}"),
        ]

    def _counts(self) -> list[Fact]:
        counts = self.counts
        facts = [("parameters", f"{counts.stored:,} stored")]
        if counts.without_norms != counts.stored:
            facts.append(("", f"{counts.without_norms:,} without norm scales"))
        if counts.model != counts.without_norms:
            tokens = f"{interface.num_tokens(self.run.model):,} tokens"
            facts.append(("", f"{counts.model:,} without norm scales and padding past {tokens}"))
        return facts

    def _bytes(self) -> list[Fact]:
        facts = []
        for name, of in (("a device", "bytes_per_device"), ("in all", "bytes")):
            params, state = (
                sum(getattr(array, of) for array in arrays)
                for arrays in (self.params, self.optimizer_state)
            )
            text = (
                f"{units.size(params + state)}: parameters {units.size(params)},"
                f" {name_of(self.run.optimizer)} state {units.size(state)}"
            )
            facts.append((name, text))
        return facts

    def _replicated(self) -> list[Fact]:
        """Returns what is not sharded over all devices of a replica, the least replicated first."""
        replicas, num_devices = self.axis_sizes[axes.REPLICA], math.prod(self.axis_sizes.values())
        facts = [("replicas", f"{replicas}, each with all of the state")] if replicas > 1 else []
        everything = [*self.params, *self.optimizer_state]
        for copies in sorted({array.copies for array in everything if array.copies > replicas}):
            alike = [array for array in everything if array.copies == copies]
            held = units.size(sum(array.bytes_per_device for array in alike))
            names = ", ".join(array.name for array in self.params if array.copies == copies)
            where = "replicated" if copies == num_devices else f"replicated {copies:,}x"
            facts.append(
                (where, f"{held} a device, optimizer state included: {names or 'counters'}")
            )
        return facts


def _axes_text(target: MeshAxes) -> str:
    return "-" if target is None else target if isinstance(target, str) else "+".join(target)
