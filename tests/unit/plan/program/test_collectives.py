import numpy as np
from small_program import MESH, TEXT, network

from palmscale.plan.program import collectives, hlo

TRAFFIC = collectives.find(hlo.parse(TEXT), MESH, network())


def test_each_collective_is_found_with_its_kind_axis_bytes_and_count():
    rows = {
        name: (one.kind, one.axis, one.array, one.bytes, one.executions, one.is_async)
        for name, one in TRAFFIC.found.items()
    }
    assert rows == {
        "all-gather-start.1": ("all-gather", "data", "bf16[1024,1024]", 2 * 2**20, 3, True),
        "scattered": ("reduce-scatter", "data", "f32[1024,1024]", 4 * 2**20, 3, False),
        "all-reduce.2": ("all-reduce", "model", "f32[64,1024]", 2**18, 1, False),
    }


def test_what_waits_for_an_asynchronous_one_is_known():
    assert TRAFFIC.ends == {"all-gather-done.1": "all-gather-start.1"}


def test_sources_and_passes():
    found = TRAFFIC.found
    assert found["scattered"].source == "package/model.py:12"
    assert [found[n].phase for n in ("all-gather-start.1", "scattered", "all-reduce.2")] == [
        "forward",
        "backward",
        "other",
    ]


def test_an_asynchronous_fusion_is_one_collective_from_start_to_done():
    text = TEXT.replace(
        "%body (state:",
        """%start_it (w: bf16[64,1024]) -> (bf16[64,1024], bf16[1024,1024]) {
  %w = bf16[64,1024]{1,0} parameter(0)
  %gather.1 = bf16[1024,1024]{1,0} all-gather(%w), channel_id=9, replica_groups=[16,16]<=[256], dimensions={0}
  ROOT %s = (bf16[64,1024]{1,0}, bf16[1024,1024]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (w.1: bf16[64,1024]) -> bf16[1024,1024] {
  %w.1 = bf16[64,1024]{1,0} parameter(0)
  ROOT %gather.2 = bf16[1024,1024]{1,0} all-gather(%w.1), channel_id=9, replica_groups=[16,16]<=[256], dimensions={0}
}

%end_it (w.2: bf16[64,1024]) -> bf16[1024,1024] {
  %w.2 = bf16[64,1024]{1,0} parameter(0)
  %gather.3 = bf16[1024,1024]{1,0} all-gather(%w.2), channel_id=9, replica_groups=[16,16]<=[256], dimensions={0}
  ROOT %d = bf16[1024,1024]{1,0} custom-call(%gather.3), custom_call_target="AsyncCollectiveDone"
}

%body (state:""",  # noqa: E501
    ).replace(
        "  %kernel =",
        """  %begun = (bf16[64,1024]{1,0}, bf16[1024,1024]{1,0}) fusion(%weight), kind=kCustom, calls=%start_it
  %beside.2 = bf16[1024,1024]{1,0} fusion(%weight), kind=kOutput, calls=%async_collective_fusion.1
  %ended = bf16[1024,1024]{1,0} fusion(%weight), kind=kCustom, calls=%end_it
  %kernel =""",  # noqa: E501
    )
    traffic = collectives.find(hlo.parse(text), MESH, network())
    assert traffic.found.keys() - TRAFFIC.found.keys() == {"begun"}
    assert traffic.found["begun"].is_async
    assert traffic.ends["ended"] == "begun"


def test_between_slices_a_send_is_the_collective():
    text = TEXT.replace(
        "  %result = f32[64,1024]",
        """  %send.1 = (f32[8,128]{1,0}, u32[], token[]) send(%param.1), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done.1 = token[] send-done(%send.1), channel_id=2
  %result = f32[64,1024]""",  # noqa: E501
    )
    traffic = collectives.find(hlo.parse(text), MESH, network())
    one = traffic.found.get("send.1")
    # One slice alone has nobody to send to.
    assert one is None and "send-done.1" not in traffic.ends


def test_a_part_of_an_axis_differs_from_the_whole():
    assert collectives.axis_of(np.array([[0, 16, 32]]), MESH) == "part of data"
    assert collectives.axis_of(np.array([[0, 16]]), MESH, pairs=True) == "data"
    assert collectives.axis_of(np.arange(256)[None], MESH) == "data+model"


def permuted(pairs):
    text = TEXT.replace(
        "  %result = f32[64,1024]",
        f"""  %permuted = f32[64,1024]{{1,0}} collective-permute(%param.1), channel_id=8, source_target_pairs={pairs}
  %result = f32[64,1024]""",  # noqa: E501
    )
    return collectives.find(hlo.parse(text), MESH, network()).found.get("permuted")


def test_a_permute_goes_the_way_of_those_that_move():
    assert permuted("{{0,0},{1,2},{2,1}}").axis == "model"
    assert permuted("{{0,0},{1,1}}") is None


def test_the_source_of_what_it_reads_stands_for_one_that_has_none():
    text = TEXT.replace(
        'ids=true, metadata={op_name="jit(step)/jvp(hidden)/while/body/dot_general"'
        " stack_frame_id=1}, backend_config",
        "ids=true, backend_config",
    ).replace("%weight = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1",
              "%weight = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1,"
              " metadata={op_name=\"weight\" stack_frame_id=2}")  # fmt: skip
    gather = collectives.find(hlo.parse(text), MESH, network()).found["all-gather-start.1"]
    assert (gather.op_name, gather.source) == ("weight", "package/loss.py:34")


def with_start(text):
    return collectives.find(
        hlo.parse(TEXT.replace("  %result = f32[64,1024]", f"{text}\n  %result = f32[64,1024]")),
        MESH,
        network(),
    )


def test_a_reduce_scatter_that_starts_moves_its_operands_once():
    found = with_start(
        """  %rs = ((bf16[1024,1024]{1,0}, bf16[1024,1024]{1,0}), (bf16[64,1024]{1,0}, bf16[64,1024]{1,0})) reduce-scatter-start(%param.1, %param.1), channel_id=8, replica_groups=[16,16]<=[256], dimensions={0}
  %rs-done = (bf16[64,1024]{1,0}, bf16[64,1024]{1,0}) reduce-scatter-done(%rs)"""  # noqa: E501
    )
    assert (found.found["rs"].array, found.found["rs"].bytes) == ("bf16[1024,1024]", 2**22)
    assert found.ends["rs-done"] == "rs"


def test_a_fusion_that_starts_a_collective_is_one():
    text = TEXT.replace(
        "%body (state:",
        """%fused-all-reduce (p: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  ROOT %inner = f32[] all-reduce(%p), channel_id=9, replica_groups=[16,16]<=[256], to_apply=%add
}

%body (state:""",
    ).replace(
        "  %result = f32[64,1024]",
        """  %fs = ((f32[]), f32[]) fusion-start(%param.1), kind=kCustom, calls=%fused-all-reduce
  %fd = f32[] fusion-done(%fs)
  %result = f32[64,1024]""",
    )
    traffic = collectives.find(hlo.parse(text), MESH, network())
    assert (traffic.found["fs"].kind, traffic.found["fs"].bytes) == ("all-reduce", 4)
    assert traffic.ends["fd"] == "fs"
