import dataclasses

from small_program import MESH, TEXT, network

from palmscale.plan import collectives, hlo
from palmscale.plan.surprises import surprises

TRAFFIC = collectives.find(hlo.parse(TEXT), MESH, network())


def surprises_of(**changes):
    one = dataclasses.replace(TRAFFIC.found["scattered"], **changes)
    flagged = surprises([one], logits_sizes={4096}, gradient_bytes=2**20)
    return [surprise.why for surprise in flagged]


def test_what_a_well_laid_out_step_has_is_no_surprise():
    assert surprises_of() == []


def test_surprises_are_named():
    logits = {"kind": "all-gather", "array": "bf16[2,8,4096]"}
    assert surprises_of(**logits, op_name="jit(step)/PaLM.unembed/dot") == ["gathers logits"]
    assert surprises_of(**logits, op_name="jit(step)/PaLM.hidden/dot") == []
    assert surprises_of(kind="all-reduce") == ["sums a whole gradient; a reduce-scatter would do"]
    assert surprises_of(axis="part of data") == ["its groups follow no mesh axis"]
    assert surprises_of(padded_bytes=2**19) == ["12% of it is padding to equal shards"]
