"""Finds collectives that a well-laid-out step would not have."""

import re
from collections.abc import Sequence

from palmscale import axes
from palmscale.plan.program.collectives import Collective


def unexpected(
    found: Sequence[Collective], *, logits_sizes: set[int], gradient_bytes: int
) -> list[tuple[Collective, str]]:
    """Returns pairs (collective, why it is unexpected), the most bytes first.

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
            flagged.append((one, "gathers logits"))
        elif one.kind == "all-reduce" and axes.DATA in one.axis and one.bytes >= gradient_bytes:
            flagged.append((one, "sums a whole gradient; a reduce-scatter would do"))
        elif one.axis.startswith("part of"):
            flagged.append((one, "its groups follow no mesh axis"))
        elif one.padded_bytes > 0.02 * one.bytes:
            share = one.padded_bytes / one.bytes
            flagged.append((one, f"{share:.0%} of it is padding to equal shards"))
    return sorted(flagged, key=lambda item: -item[0].bytes_per_step)
