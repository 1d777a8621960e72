"""Text and held-out figures from a trained run."""

import pytest
import tiny_run


@pytest.fixture(scope="module")
def answers(finished, tmp_path_factory):
    prompt = tmp_path_factory.mktemp("prompt") / "prompt.txt"
    prompt.write_text("naïve ")
    generate = ["generate", f"--workdir={finished}", "--max_tokens=12"]
    commands = {
        "greedy": [*generate, "--prompt=def ", "--greedy"],
        "greedy again": [*generate, "--prompt=def ", "--greedy", "--seed=5"],
        "drawn": [*generate, "--prompt=def ", "--temperature=2.0"],
        "drawn again": [*generate, "--prompt=def ", "--temperature=2.0"],
        "other seed": [*generate, "--prompt=def ", "--temperature=2.0", "--seed=1"],
        "three": [*generate, "--prompt=def ", "--num_samples=3", "--temperature=2.0"],
        "from file": [*generate, f"--prompt_file={prompt}", "--greedy"],
        "no prompt": [*generate, "--top_k=5", "--top_p=0.9"],
        "older": [*generate, "--prompt=def ", "--greedy", "--checkpoint=8"],
        "best": [*generate, "--prompt=def ", "--greedy", "--checkpoint=best"],
        "eval": ["eval", f"--workdir={finished}"],
    }
    # The simulated devices of the run that `eval` rebuilds, before `generate` starts JAX.
    first = "import jax; jax.config.update('jax_num_cpu_devices', 8)"
    answers = tiny_run.run_each(commands.values(), first)
    assert [answer.returncode for answer in answers] == [0] * len(commands), answers
    return dict(zip(commands, answers, strict=True))


def test_greedy_text_is_the_same_whatever_the_seed(answers):
    assert answers["greedy"].stdout == answers["greedy again"].stdout


def test_a_seed_repeats_and_another_differs(answers):
    drawn = answers["drawn"].stdout
    assert drawn == answers["drawn again"].stdout != answers["other seed"].stdout


def test_stdout_is_the_text_alone(answers):
    text = answers["greedy"].stdout
    assert text.startswith("def ") and text.endswith("\n") and len(text) <= len("def ") + 12 + 1
    assert answers["greedy"].stderr == ""
    assert answers["from file"].stdout.startswith("naïve ")


def test_several_samples_are_numbered_and_differ(answers):
    samples = answers["three"].stdout.split("--- sample ")[1:]
    assert [sample[:6] for sample in samples] == [f"{number}\ndef " for number in range(3)]
    assert len({sample[2:] for sample in samples}) == 3


def test_a_checkpoint_can_be_chosen(answers):
    assert answers["best"].stdout == answers["greedy"].stdout  # the last step is the best one
    assert answers["older"].stdout.startswith("def ")


def test_eval_covers_all_held_out_rows_and_equals_the_metrics_of_such_a_run(
    answers, tiny, tmp_path
):
    lines = dict(line.split() for line in answers["eval"].stdout.splitlines())
    assert lines["step"] == "16"
    tiny_run.run(*tiny(tmp_path / "run", EVAL_SEQUENCES=None))
    last = tiny_run.metrics(tmp_path / "run")[-1]
    for name in ("eval_bits_per_byte", "eval_loss"):
        assert float(lines[name]) == pytest.approx(last[name], abs=1e-6)
