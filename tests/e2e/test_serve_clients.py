"""Foreign clients of the server, each in an environment of its own: lm-eval and guidellm."""

import json
import math
import os
import subprocess
import sys

import pytest
from served_command import served

from palmscale.run.load import load

pytestmark = pytest.mark.long
MODEL = "tiny"
TEXTS = ["def encode(text):\n    return text.strip()", "naïve → text", "class A:\n    pass\n" * 2]
TASK = """
task: own_text
dataset_path: json
dataset_kwargs: {data_files: {test: texts.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
CHOICES = """
task: own_choices
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def environment(folder, *requirements):
    """The programs of a new environment with these packages."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/pip", "install", "-q", *requirements], check=True)
    return folder / "bin"


def run(command, cwd):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=os.environ | offline
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def command(finished):
    flags = [f"--workdir={finished}", "--port=0", f"--model_name={MODEL}"]
    with served(*flags, "--context_length=256") as command:
        yield command
        code, said = command.end()
        assert code == 0 and " 500 " not in said, said


def test_lm_eval_measures_the_bits_per_byte_of_score(command, finished, tmp_path):
    programs = environment(tmp_path / "env", "lm-eval[api]==0.4.13")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    question = {"question": "def ", "choices": ["f(x):", "1 2 3", "é"], "answer": 0}
    (tmp_path / "choices.jsonl").write_text(json.dumps(question) + "\n")
    (tmp_path / "own_text.yaml").write_text(TASK)
    (tmp_path / "own_choices.yaml").write_text(CHOICES)
    model = f"model={MODEL},base_url={command.url}/v1/completions,num_concurrent=4"
    model += ",tokenizer_backend=remote,max_length=256,custom_prefix_token_id=0"
    run(
        [
            programs / "lm_eval", "run", "--model", "local-completions", "--model_args", model,
            "--tasks", "own_text,own_choices", "--include_path", ".", "--output_path", "results",
        ],
        tmp_path,
    )  # fmt: skip
    (path,) = (tmp_path / "results").rglob("results*.json")
    results = json.loads(path.read_text())["results"]
    scores = load(finished).score(TEXTS)
    bits = sum(score.bits_per_byte * len(t.encode()) for score, t in zip(scores, TEXTS))
    expected = bits / sum(len(text.encode()) for text in TEXTS)
    measured = results["own_text"]["bits_per_byte,none"]
    assert math.isclose(measured, expected, abs_tol=1e-4), (measured, expected)
    assert results["own_choices"]["acc,none"] in (0, 1)


def test_guidellm_completes_its_synthetic_run(command, tmp_path):
    programs = environment(tmp_path / "env", "guidellm==0.8.1")
    tokenizer = tmp_path / "tokenizer"
    code = (
        "from transformers import ByT5Tokenizer as T; T(extra_ids=0).save_pretrained('tokenizer')"
    )
    run([programs / "python", "-c", code], tmp_path)
    run(
        [
            programs / "guidellm", "run",
            "--backend", f"kind=openai_http,target={command.url},model={MODEL},"
            "request_format=/v1/completions",
            "--profile", "kind=concurrent,streams=4",
            "--constraint", "kind=max_duration,seconds=5",
            "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
            "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16",
            "--output", "kind=json,path=out.json",
        ],
        tmp_path,
    )  # fmt: skip
    text = (tmp_path / "out.json").read_text()
    (benchmark,) = json.loads(text)["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] > 10 and totals["errored"] == 0, totals
