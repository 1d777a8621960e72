"""Settings of XLA and JAX that all hosts share, and the flags of simulated devices."""

import jax
import pytest

from palmscale.run.compiler_settings import compiler_settings, with_flags_for_simulated_devices

IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
OUT_OF_ORDER = IN_ORDER.replace("false", "true")
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=86400"
    " --xla_cpu_collective_call_terminate_timeout_seconds=86400"
)


def test_flags_of_xla_and_libtpu_are_compared_one_by_one():
    flags = "--xla_a=1 --xla_cpu_enable_fast_math=true --xla_a=2 --xla_b --xla_dump_to=/tmp/here"
    found = compiler_settings({"XLA_FLAGS": flags, "LIBTPU_INIT_ARGS": "--xla_tpu_x=true"})
    assert {name: value for name, value in found.items() if name.startswith("XLA")} == {
        "XLA_FLAGS --xla_a": "2",
        "XLA_FLAGS --xla_b": "true",
        "XLA_FLAGS --xla_cpu_enable_fast_math": "true",
    }
    assert found["LIBTPU_INIT_ARGS"] == "--xla_tpu_x=true"
    assert compiler_settings({})["LIBTPU_INIT_ARGS"] == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_threefry_partitionable", False),
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_memory_fitting_level", "O1"),
        ("jax_softmax_custom_jvp", True),
    ],
)
def test_a_setting_of_jax_that_changes_programs_is_compared(name, value):
    before, was = compiler_settings({}), getattr(jax.config, name)
    try:
        jax.config.update(name, value)
        after = compiler_settings({})
    finally:
        jax.config.update(name, was)
    assert [changed for changed in after if after[changed] != before[changed]] == [name]
    assert compiler_settings({}) == before


def test_what_a_host_may_have_to_itself_is_not_compared():
    own = {
        "jax_compilation_cache_dir",
        "jax_platforms",
        "jax_dump_ir_to",
        "jax_log_compiles",
        "jax_traceback_filtering",
        "jax_cpu_get_global_topology_timeout_minutes",
    }
    assert own <= jax.config.values.keys() and not own & compiler_settings({}).keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{IN_ORDER} {PATIENT}"),
        ("--xla_a=1", f"--xla_a=1 {IN_ORDER} {PATIENT}"),
        (f"{OUT_OF_ORDER} {PATIENT}", f"{OUT_OF_ORDER} {PATIENT}"),
        ("/a/file/of/flags", "/a/file/of/flags"),
    ],
)
def test_collectives_are_kept_in_order_unless_the_user_says_otherwise(given, expected):
    assert with_flags_for_simulated_devices(given) == expected
