import pytest
from small_program import MESH, network

from palmscale.plan.hardware.network import HOST_BYTES_PER_SECOND
from palmscale.plan.program import collectives, hlo, memory
from palmscale.plan.program.host_copies import FROM_HOST, TO_HOST, bytes_on_host, host_copy

HOST = "{2,1,0:T(8,128)(2,1)S(5)}"
CHIP = "{2,1,0:T(8,128)(2,1)}"
# Saves three slices on the host and reads one of them back.
PROGRAM = hlo.parse(
    f"""\
HloModule jit_step, is_scheduled=true

ENTRY %main (x: bf16[1,64,128]) -> bf16[1,64,128] {{
  %x = bf16[1,64,128]{CHIP} parameter(0), metadata={{op_name="x"}}
  %zero = s32[]{{:T(128)}} constant(0)
  %whole = bf16[3,64,128]{HOST} custom-call(), custom_call_target="AllocateBuffer"
  %out = ((bf16[3,64,128]{HOST}, bf16[1,64,128]{CHIP}, s32[]{{:T(128)}}), bf16[3,64,128]{HOST}, u32[]{{:S(2)}}) dynamic-update-slice-start(%whole, %x, %zero)
  %saved = bf16[3,64,128]{HOST} dynamic-update-slice-done(%out)
  %in = ((bf16[3,64,128]{HOST}, s32[]), bf16[1,64,128]{CHIP}, u32[]{{:S(2)}}) dynamic-slice-start(%saved, %zero), dynamic_slice_sizes={{1,64,128}}
  %read = bf16[1,64,128]{CHIP} dynamic-slice-done(%in)
  %away = (bf16[1,64,128]{HOST}, bf16[1,64,128]{CHIP}, u32[]{{:S(2)}}) copy-start(%read)
  %gone = bf16[1,64,128]{HOST} copy-done(%away)
  %back = (bf16[1,64,128]{CHIP}, bf16[1,64,128]{HOST}, u32[]{{:S(2)}}) copy-start(%gone)
  ROOT %result = bf16[1,64,128]{CHIP} copy-done(%back)
}}
"""  # noqa: E501
)
SLICE = 64 * 128 * 2


def test_each_copy_goes_its_way_with_what_moves():
    body = {instruction.name: instruction for instruction in PROGRAM.computations["main"]}
    ways = {name: host_copy(one) for name, one in body.items() if host_copy(one)}
    moved = ("bf16", (1, 64, 128))
    assert ways == {"out": (TO_HOST, moved), "in": (FROM_HOST, moved),
                    "away": (TO_HOST, moved), "back": (FROM_HOST, moved)}  # fmt: skip


def test_a_copy_is_traffic_beside_what_computes():
    found = collectives.find(PROGRAM, MESH, network())
    out = found.found["out"]
    assert (out.kind, out.axis, out.bytes, out.is_async) == (TO_HOST, "host", SLICE, True)
    assert out.seconds == pytest.approx(SLICE / HOST_BYTES_PER_SECOND)
    assert out.path.lanes != found.found["in"].path.lanes
    assert found.ends == {"saved": "out", "read": "in", "gone": "away", "result": "back"}
    assert out.op_name == "x"


def test_the_host_holds_what_no_device_does():
    assert bytes_on_host(PROGRAM) == 4 * SLICE
    assert sum(held.bytes for held in memory.at_the_peak(PROGRAM)) <= SLICE
