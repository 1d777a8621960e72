import pytest
from small_program import TEXT

from palmscale.plan.program import hlo

PROGRAM = hlo.parse(TEXT)


def instruction(computation, name):
    return next(i for i in PROGRAM.computations[computation] if i.name == name)


def test_every_computation_and_instruction_is_read():
    sizes = {name: len(body) for name, body in PROGRAM.computations.items()}
    assert sizes == {
        "add": 3,
        "all-reduce-scatter.1": 4,
        "body": 13,
        "condition": 4,
        "main.1_spmd": 8,
    }
    assert PROGRAM.entry == "main.1_spmd"


def test_a_loop_counts_from_its_first_value_to_its_limit():
    assert PROGRAM.executions == {"main.1_spmd": 1, "body": 3}


@pytest.mark.parametrize(("limit", "step", "times"), [(4, 1, 3), (7, 2, 3), (8, 2, 4)])
def test_a_loop_counts_by_its_step(limit, step, times):
    text = TEXT.replace("%limit = s32[]{:T(128)} constant(4)", f"%limit = s32[] constant({limit})")
    text = text.replace("%one = s32[]{:T(128)} constant(1)", f"%one = s32[] constant({step})")
    assert hlo.parse(text).executions["body"] == times


def test_a_loop_runs_as_often_as_the_program_states():
    # Double buffering peels an iteration off, and the body holds two.
    stated = (
        'backend_config={"known_trip_count":{"n":"15"},"known_init_step":{"init":"1","step":"2"}}'
    )
    text = TEXT.replace("body=%body", f"body=%body, {stated}")
    assert hlo.parse(text).executions["body"] == 15


@pytest.mark.parametrize(
    ("type", "operands", "opcode", "results"),
    [
        ("(f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)})", "%a", "copy-start", [0]),
        ("(bf16[4]{0}, bf16[8]{0})", "%a", "all-gather-start", [1]),
        ("((bf16[4]{0}, f32[4]{0}), (bf16[8]{0}, f32[8]{0}))", "%a, %b", "all-to-all-start", [2, 3]),  # noqa: E501
        ("((bf16[8]{0}), bf16[4]{0})", "%a", "reduce-scatter-start", [1]),
        ("f32[8]{0}", "%a", "all-reduce-start", [0]),
        ("(f32[8]{0}, f32[4]{0})", "%a, %b", "all-reduce-start", [0, 1]),
        ("(f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)})", "%a", "collective-permute-start", [1]),  # noqa: E501
        ("((f32[4,8]{1,0:S(5)}, s32[]), f32[1,8]{1,0}, u32[]{:S(2)})", "%a, %i", "dynamic-slice-start", [2]),  # noqa: E501
        ("((f32[]), f32[])", "%a", "fusion-start", [1]),
    ],
)  # fmt: skip
def test_what_a_start_hands_on_is_told_from_operands_and_flags(type, operands, opcode, results):
    text = f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  ROOT %s = {type} {opcode}({operands})\n}}\n"
    (start,) = hlo.parse(text).computations["main"]
    assert list(range(9))[hlo.results_of_start(start)] == results


def test_line_breaks_in_a_kernels_metadata_lose_nothing():
    kernel = instruction("body", "kernel")
    assert "block_kv" in kernel.attributes and "splash_mqa_fwd" in kernel.attributes
    assert PROGRAM.source(kernel) == "package/model.py:12"
    assert instruction("body", "scattered").operands == ("beside",)


def test_operands_types_and_cycles():
    gather = instruction("body", "all-gather-start.1")
    assert gather.operands == ("weight",)
    assert hlo.arrays(gather.type) == [("bf16", (64, 1024)), ("bf16", (1024, 1024))]
    assert gather.bytes == 2 * (64 + 1024) * 1024
    assert (gather.cycles, instruction("body", "beside").cycles) == (0, 2000)
    assert instruction("body", "beside").called("calls") == "add"


def test_sources_name_folder_file_and_line():
    assert PROGRAM.source(instruction("main.1_spmd", "all-reduce.2")) == "package/loss.py:34"
    assert PROGRAM.source(instruction("main.1_spmd", "tuple")) == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]{:T(128)}", 4),
        ("bf16[3,5]{1,0:T(8,128)(2,1)}", 30),
        ("(pred[7]{0}, s4[3]{0}, u8[2]{0})", 7 + 2 + 2),
        ("f8e4m3fn[10]{0}", 10),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(text, size):
    assert hlo.type_bytes(text) == size
