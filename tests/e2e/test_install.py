"""palmscale installed as a stranger would: without TensorFlow, and from a wheel."""

import pathlib
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.long


def _run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git knows, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((CHECKOUT / name).read_bytes())
            (folder / name).chmod((CHECKOUT / name).stat().st_mode)
    (folder / "configs").mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def light(checkout, tmp_path_factory):
    """The Python of a new environment, installed by the light lines of docs/install.md."""
    environment = tmp_path_factory.mktemp("light")
    _run(sys.executable, "-m", "venv", environment, cwd=checkout)
    python = environment / "bin/python"
    _run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        "constraints.txt",
        "-r",
        "requirements-light.txt",
        cwd=checkout,
    )
    _run(python, "-m", "pip", "install", "-q", "--no-deps", "-e", ".", cwd=checkout)
    return python


def test_the_light_install_has_neither_tensorflow_nor_seqio(light, tmp_path):
    code = (
        "import importlib.util as u; print([m for m in ('tensorflow', 'seqio') if u.find_spec(m)])"
    )
    assert _run(light, "-c", code, cwd=tmp_path).strip() == "[]"


def test_the_light_install_answers_and_reads_gin(light, tmp_path):
    assert "usage: palmscale train" in _run(
        light.with_name("palmscale"), "train", "--help", cwd=tmp_path
    )
    assert "palmscale 0." in _run(light, "-m", "palmscale", "--version", cwd=tmp_path)
    _run(light, "-c", "from palmscale.cli.config import load; load.load([])", cwd=tmp_path)


def test_the_light_install_trains_explains_and_generates_from_a_built_cache(
    light, tiny, row_cache, tmp_path
):
    def palmscale(*arguments):
        return _run(light, "-m", "palmscale", *arguments, cwd=tmp_path)

    command = tiny(tmp_path / "run", CACHE=row_cache)
    palmscale(*command)
    assert "eval_bits_per_byte" in palmscale("eval", f"--workdir={tmp_path / 'run'}")
    assert "layers/query" in palmscale("explain", command[1], *command[3:])
    text = palmscale("generate", f"--workdir={tmp_path / 'run'}", "--prompt=def ", "--max_tokens=5")
    assert text.startswith("def ")


def test_the_wheel_carries_the_configs(light, checkout, tmp_path):
    (checkout / "configs/runs").mkdir(exist_ok=True)
    (checkout / "configs/runs/packaged.gin").write_text(
        "from __gin__ import dynamic_registration\n"
    )
    _run(
        light, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", ".", cwd=checkout
    )
    (wheel,) = (tmp_path / "wheel").glob("palmscale-*.whl")
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--system-site-packages", environment, cwd=tmp_path)
    python = environment / "bin/python"
    _run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    site = _run(
        light,
        "-c",
        "import gin, os; print(os.path.dirname(os.path.dirname(gin.__file__)))",
        cwd=tmp_path,
    )
    code = (
        f"import sys; sys.path.append({site.strip()!r}); import palmscale.cli.config.load as g;"
        "g.load(['configs/runs/packaged.gin']); print(g.ROOT)"
    )
    assert str(environment) in _run(python, "-c", code, cwd=tmp_path)
