import dataclasses
import re
import subprocess
import sys

import engine_exports
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from palmscale.errors import UserError
from palmscale.interop import stablehlo

CASE, LENGTH = "rms_square", 24
WITHOUT_PALMSCALE = """
import sys
sys.modules["palmscale"] = None  # importing it raises ImportError
import numpy
tokens_BL = numpy.load("tokens.npy")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(what was exported, its folder)."""
    outgoing = dataclasses.replace(engine_exports.outgoing(CASE), context_length=LENGTH)
    path = tmp_path_factory.mktemp("export") / "program"
    stablehlo.write(outgoing, path)
    return outgoing, path


def test_the_readme_runs_the_program_without_palmscale_and_the_logits_are_equal(written):
    outgoing, path = written
    tokens_BL = np.arange(3 * LENGTH, dtype=np.int32).reshape(3, LENGTH)
    np.save(path / "tokens.npy", tokens_BL)
    (code,) = re.findall(r"```python\n(.+?)```", (path / stablehlo.README).read_text(), re.DOTALL)
    code = f"{WITHOUT_PALMSCALE}{code}numpy.save('logits.npy', logits_BLV)"
    done = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = jax.jit(outgoing.model.apply)(engine_exports.variables(CASE), tokens_BL)
    found = np.load(path / "logits.npy")
    np.testing.assert_array_equal(found, np.asarray(ours)[..., : outgoing.model.num_tokens])


def test_the_program_runs_on_cpus_gpus_and_tpus(written):
    from jax import export

    program = export.deserialize((written[1] / stablehlo.PROGRAM).read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")


def test_its_logits_are_compared_with_the_models(written):
    said = stablehlo.check(*written)
    assert re.search(r"differ from the model's by at most (0\.0e\+00|\d\.\de-0[789])", said), said


def test_a_program_of_another_model_is_caught(written):
    outgoing, path = written
    other = dataclasses.replace(outgoing, model=outgoing.model.clone(norm="layer"))
    with pytest.raises(RuntimeError, match="the program's logits differ from the model's"):
        stablehlo.check(other, path)


def test_without_flatbuffers_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r'run pip install "palmscale\[interop\]"'):
        stablehlo.write(engine_exports.outgoing(CASE), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_weights_may_be_bfloat16(tmp_path):
    outgoing = dataclasses.replace(engine_exports.outgoing(CASE, "bfloat16"), context_length=LENGTH)
    stablehlo.write(outgoing, tmp_path / "x")
    assert f"The program's logits of {LENGTH} tokens" in stablehlo.check(outgoing, tmp_path / "x")
    assert load_file(tmp_path / "x/model.safetensors")["embedding"].dtype == "bfloat16"
