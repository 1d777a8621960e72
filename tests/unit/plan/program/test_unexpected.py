import dataclasses

from small_program import MESH, TEXT, network

from palmscale.plan.program import collectives, hlo
from palmscale.plan.program.unexpected import unexpected

TRAFFIC = collectives.find(hlo.parse(TEXT), MESH, network())


def reasons(**changes):
    one = dataclasses.replace(TRAFFIC.found["scattered"], **changes)
    flagged = unexpected([one], logits_sizes={4096}, gradient_bytes=2**20)
    return [why for _, why in flagged]


def test_what_a_well_laid_out_step_has_is_expected():
    assert reasons() == []


def test_unexpected_collectives_are_named():
    logits = {"kind": "all-gather", "array": "bf16[2,8,4096]"}
    assert reasons(**logits, op_name="jit(step)/PaLM.unembed/dot") == ["gathers logits"]
    assert reasons(**logits, op_name="jit(step)/PaLM.hidden/dot") == []
    assert reasons(kind="all-reduce") == ["sums a whole gradient; a reduce-scatter would do"]
    assert reasons(axis="part of data") == ["its groups follow no mesh axis"]
    assert reasons(padded_bytes=2**19) == ["12% of it is padding to equal shards"]
