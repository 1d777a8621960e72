import os
import subprocess
import sys

from palmscale.run.compiler_settings import with_flags_for_simulated_devices

FLAGS = with_flags_for_simulated_devices("")


def started(code, **environment):
    """What a fresh process says of its devices, its compilation cache and XLA's flags."""
    code = (
        f"import jax, os; from palmscale.run import devices; {code};"
        "print(jax.default_backend(), jax.device_count(), jax.config.jax_compilation_cache_dir,"
        " os.environ.get('XLA_FLAGS'))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_", "XLA_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )


def test_devices_are_simulated_on_the_cpu_and_programs_kept_in_the_users_cache(tmp_path):
    done = started("devices.start(3)", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.split() == ["cpu", "3", f"{tmp_path}/palmscale/jax", *FLAGS.split()], (
        done.stderr
    )


def test_the_environment_wins_where_it_says_more(tmp_path):
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    done = started("devices.start(None)", **environment)
    assert done.stdout.split() == ["cpu", "1", str(tmp_path), *FLAGS.split()], done.stderr


def test_where_jax_has_started_with_other_devices_the_error_names_the_fix():
    done = started("jax.devices(); devices.start(3)", JAX_PLATFORMS="cpu")
    assert (
        "JAX has already started with 1 cpu device(s), and Layout.simulated_devices=3"
        in done.stderr
    )
    assert "jax.config.update('jax_num_cpu_devices', 3)" in done.stderr


def test_where_jax_has_started_with_these_devices_all_is_well():
    twice = "devices.start(3); jax.devices(); devices.start(3)"
    assert started(twice, JAX_PLATFORMS="cpu").stdout.split()[:2] == ["cpu", "3"]


def test_jax_that_has_started_without_the_flag_for_simulated_devices_is_warned_of():
    late = "jax.config.update('jax_num_cpu_devices', 2); jax.devices(); devices.start(2)"
    done = started(late, JAX_PLATFORMS="cpu")
    assert "may stand still" in done.stderr and "XLA_FLAGS='--xla_cpu_enable" in done.stderr
    assert done.stdout.split()[-1] == "None"
    done = started(late, JAX_PLATFORMS="cpu", XLA_FLAGS=FLAGS)
    assert "stand still" not in done.stderr and done.stdout.split()[3:] == FLAGS.split()
