"""A program in the compiler's notation, small enough to count by hand, and a torus to run it on.

Four chips in a ring as data 4. Three layers forward in a loop, each of which gathers a weight
beside a matmul, scatters a sum and calls a kernel; around them one sum over all.
"""

import types

from jax.sharding import AbstractMesh

from palmscale.plan.hardware.network import Network
from palmscale.plan.hardware.topology import parse

MESH = AbstractMesh((16, 16), ("data", "model"))

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[16,8]{1,0})->f32[16,8]{1,0}}

FileNames
1 "/somewhere/package/model.py"
2 "/somewhere/package/loss.py"

FunctionNames
1 "hidden"

FileLocations
1 {file_name_id=1 function_name_id=1 line=12 end_line=12 column=1 end_column=9}
2 {file_name_id=2 function_name_id=1 line=34 end_line=34 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}

%all-reduce-scatter.1 (input: f32[1024,1024]) -> f32[64,1024] {
  %input = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[1024,1024]{1,0:T(8,128)} all-reduce(%input), channel_id=3, replica_groups=[16,16]<=[16,16]T(1,0), use_global_device_ids=true, to_apply=%add
  %zero = u32[]{:T(128)} constant(0)
  ROOT %slice = f32[64,1024]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={64,1024}
}

%body (state: (s32[], bf16[64,1024], f32[64,1024], bf16[3,64,1024])) -> (s32[], bf16[64,1024], f32[64,1024], bf16[3,64,1024]) {
  %state = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, f32[64,1024]{1,0:T(8,128)}, bf16[3,64,1024]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %weight = bf16[64,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %x = f32[64,1024]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %saved = bf16[3,64,1024]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=3
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%count, %one)
  %all-gather-start.1 = (bf16[64,1024]{1,0:T(8,128)(2,1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)}) all-gather-start(%weight), channel_id=1, replica_groups=[16,16]<=[16,16]T(1,0), dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(step)/jvp(hidden)/while/body/dot_general" stack_frame_id=1}, backend_config={"flag_configs":[]}
  %beside = f32[1024,1024]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%add, metadata={op_name="jit(step)/jvp(hidden)/while/body/dot_general" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"2000","iteration_bounds":[]}}
  %all-gather-done.1 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather-done(%all-gather-start.1)
  %kernel = bf16[4,2,2048,128]{3,2,1,0:T(8,128)(2,1)} custom-call(%all-gather-done.1), custom_call_target="tpu_custom_call", operand_layout_constraints={s8[1,4,4]{2,1,0}, bf16[4,2,2048,128]{3,2,1,0}, bf16[4,2048,128]{2,1,0}, bf16[4,2048,128]{2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512}"
}}, metadata={op_name="jit(step)/jvp(hidden)/splash_mqa_fwd" stack_frame_id=1}
  %scattered = f32[64,1024]{1,0:T(8,128)} fusion(%beside), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/transpose(jvp(hidden))/dot_general" stack_frame_id=1}
  ROOT %out = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, f32[64,1024]{1,0:T(8,128)}, bf16[3,64,1024]{2,1,0:T(8,128)(2,1)}) tuple(%next, %weight, %scattered, %saved)
}

%condition (state.1: (s32[], bf16[64,1024], f32[64,1024], bf16[3,64,1024])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  %state.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, f32[64,1024]{1,0:T(8,128)}, bf16[3,64,1024]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
}

ENTRY %main.1_spmd (param: bf16[64,1024], param.1: f32[64,1024]) -> f32[64,1024] {
  %param = bf16[64,1024]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="state.params['weight']"}
  %param.1 = f32[64,1024]{1,0:T(8,128)} parameter(1)
  %begin = s32[]{:T(128)} constant(1)
  %stack = bf16[3,64,1024]{2,1,0:T(8,128)(2,1)} broadcast(%begin), dimensions={}, metadata={op_name="jit(step)/jvp(hidden)/broadcast_in_dim" stack_frame_id=1}
  %tuple = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, f32[64,1024]{1,0:T(8,128)}, bf16[3,64,1024]{2,1,0:T(8,128)(2,1)}) tuple(%begin, %param, %param.1, %stack)
  %while.1 = (s32[]{:T(128)}, bf16[64,1024]{1,0:T(8,128)(2,1)}, f32[64,1024]{1,0:T(8,128)}, bf16[3,64,1024]{2,1,0:T(8,128)(2,1)}) while(%tuple), condition=%condition, body=%body, metadata={op_name="jit(step)/jvp(hidden)/while" stack_frame_id=1}
  %result = f32[64,1024]{1,0:T(8,128)} get-tuple-element(%while.1), index=2
  ROOT %all-reduce.2 = f32[64,1024]{1,0:T(8,128)} all-reduce(%result), channel_id=7, replica_groups=mesh['a'=16,'b'=16] {'b'}, use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(step)/reduce_sum" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"500"}}
}
"""  # noqa: E501


def network() -> Network:
    """A v5e slice of 16 x 16: data 16 along the first dim, model 16 along the other."""
    devices = [
        types.SimpleNamespace(coords=(x, y, 0), slice_index=0) for x in range(16) for y in range(16)
    ]
    return Network(parse("v5e-256"), devices)
