import os
import subprocess
import sys


def started(argument, **environment):
    """What a fresh process says of its devices and its compilation cache."""
    code = (
        f"from palmscale.cli import devices; devices.start({argument}); import jax;"
        "print(jax.default_backend(), jax.device_count(), jax.config.jax_compilation_cache_dir)"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_devices_are_simulated_on_the_cpu_and_programs_kept_in_the_users_cache(tmp_path):
    assert started(3, XDG_CACHE_HOME=str(tmp_path)) == [
        "cpu",
        "3",
        f"{tmp_path}/palmscale/jax",
    ]


def test_the_environment_wins_where_it_says_more(tmp_path):
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    assert started(None, **environment) == ["cpu", "1", str(tmp_path)]
