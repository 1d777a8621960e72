"""Which collectives of a step a well-laid-out one would not have."""

import dataclasses
import re
from collections.abc import Sequence

from palmscale import axes
from palmscale.plan.collectives import Collective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surprise:
    """A collective that a well-laid-out step would not have."""

    collective: Collective
    why: str


def surprises(
    found: Sequence[Collective], *, logits_sizes: set[int], gradient_bytes: int
) -> list[Surprise]:
    """Returns what is unexpected, the most bytes first.

    Args:
        found: the collectives of a step.
        logits_sizes: sizes of the vocabulary's dim, whole and sharded over an axis.
        gradient_bytes: an all-reduce of at least so many bytes over data is a whole gradient.
    """
    flagged = []
    for one in found:
        dims = [int(size) for size in re.findall(r"\d+", one.array.partition("[")[2])]
        is_logits = "unembed" in one.op_name and len(dims) > 2 and dims[-1] in logits_sizes
        if one.kind == "all-gather" and is_logits:
            flagged.append(Surprise(collective=one, why="gathers logits"))
        elif one.kind == "all-reduce" and axes.DATA in one.axis and one.bytes >= gradient_bytes:
            flagged.append(
                Surprise(collective=one, why="sums a whole gradient; a reduce-scatter would do")
            )
        elif one.axis.startswith("part of"):
            flagged.append(Surprise(collective=one, why="its groups follow no mesh axis"))
        elif one.padded_bytes > 0.02 * one.bytes:
            share = one.padded_bytes / one.bytes
            flagged.append(
                Surprise(collective=one, why=f"{share:.0%} of it is padding to equal shards")
            )
    return sorted(flagged, key=lambda surprise: -surprise.collective.bytes_per_step)
