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


def body_with(lines):
    return TEXT.replace("  %kernel =", f"{lines}\n  %kernel =")


def test_a_copy_from_the_host_is_in_the_chips_memory_from_its_start():
    text = body_with(
        """  %begun = ((f32[3,512,1024]{2,1,0:S(5)}, s32[]), f32[512,1024]{1,0}, u32[]{:S(2)}) dynamic-slice-start(%saved, %count)
  %back = f32[512,1024]{1,0} dynamic-slice-done(%begun)
  %used = f32[512,1024]{1,0} fusion(%back, %all-gather-done.1, %beside), kind=kLoop, calls=%add"""  # noqa: E501
    )
    assert held(text)["f32[512, 1024]"] == (2, 2 * 2**21)


def test_a_copy_to_the_host_takes_none_of_the_chips_memory():
    text = body_with(
        """  %begun = (f32[512,1024]{1,0:S(5)}, f32[512,1024]{1,0}, u32[]{:S(2)}) copy-start(%beside)
  %away = f32[512,1024]{1,0:S(5)} copy-done(%begun)"""  # noqa: E501
    )
    assert held(text) == held()


def test_what_an_asynchronous_collective_reads_lives_until_its_end():
    text = body_with(
        """  %whole = f32[2048,1024]{1,0} fusion(%x), kind=kLoop, calls=%add
  %begun = ((f32[2048,1024]{1,0}), f32[128,1024]{1,0}) reduce-scatter-start(%whole), channel_id=7, replica_groups=[16,16]<=[256], dimensions={0}
  %busy = f32[4096,1024]{1,0} fusion(%x), kind=kLoop, calls=%add
  %part = f32[128,1024]{1,0} reduce-scatter-done(%begun)"""  # noqa: E501
    )
    found = held(text)
    assert found["f32[2048, 1024]"] == (1, 2**23) and found["f32[4096, 1024]"] == (1, 2**24)
