from small_program import TEXT

from palmscale.plan.program import hlo
from palmscale.plan.program.memory import at_the_peak


def held(text=TEXT):
    return {f"{h.dtype}{list(h.shape)}": (h.count, h.bytes) for h in at_the_peak(hlo.parse(text))}


def test_the_peak_has_what_is_alive_then():
    # The kernel runs beside the gathered weight and the matmul's result; the stack of saved
    # activations lives from before the loop. Arguments, and what passes through, are not counted.
    assert held() == {
        "f32[1024, 1024]": (1, 4 * 2**20),
        "bf16[4, 2, 2048, 128]": (1, 4 * 2**20),
        "bf16[1024, 1024]": (1, 2 * 2**20),
        "bf16[3, 64, 1024]": (1, 3 * 2**17),
    }


def test_what_lies_on_the_chip_itself_takes_no_memory():
    on_chip = TEXT.replace(
        "%beside = f32[1024,1024]{1,0:T(8,128)}", "%beside = f32[1024,1024]{1,0:T(8,128)S(1)}"
    )
    assert "f32[1024, 1024]" not in held(on_chip)


def test_the_source_of_what_is_held_is_known():
    first = next(h for h in at_the_peak(hlo.parse(TEXT)) if h.shape == (3, 64, 1024))
    assert (first.source, first.op_name) == (
        "package/model.py:12",
        "jit(step)/jvp(hidden)/broadcast_in_dim",
    )
