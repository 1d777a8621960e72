"""`palmscale env` tells everything that a bug report needs, and nothing secret."""

import jax

from palmscale.cli import main


def test_versions_devices_and_caches_are_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", f"{tmp_path}/jax")
    (tmp_path / "palmscale/plans").mkdir(parents=True)
    (tmp_path / "palmscale/plans/a").write_text("x" * 2048)
    assert main.run(["env"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["jax"] == jax.__version__
    assert told["devices"].startswith(f"{len(jax.devices())} x cpu")
    assert told["plans"] == f"{tmp_path}/palmscale/plans, 2.00 KiB"
    assert f"{tmp_path}/jax, absent" in told["compiled"]


def test_no_value_of_a_secret_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")
    monkeypatch.setenv("UNRELATED", "hush")
    assert main.run(["env", "--no_devices"]) == 0
    told = capsys.readouterr().out
    assert "hush" not in told and "--xla_x=1" in told and "UNRELATED" not in told
    assert "WANDB_API_KEY" in told and "HF_TOKEN" in told
