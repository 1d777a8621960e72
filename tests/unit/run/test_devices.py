import os
import subprocess
import sys


def started(code, **environment):
    """What a fresh process says of its devices and its compilation cache."""
    code = (
        f"import jax; from palmscale.run import devices; {code};"
        "print(jax.default_backend(), jax.device_count(), jax.config.jax_compilation_cache_dir)"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )


def test_devices_are_simulated_on_the_cpu_and_programs_kept_in_the_users_cache(tmp_path):
    done = started("devices.start(3)", XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.split() == ["cpu", "3", f"{tmp_path}/palmscale/jax"], done.stderr


def test_the_environment_wins_where_it_says_more(tmp_path):
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    done = started("devices.start(None)", **environment)
    assert done.stdout.split() == ["cpu", "1", str(tmp_path)], done.stderr


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
