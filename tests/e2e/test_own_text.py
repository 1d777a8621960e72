"""Text of the user's own: files named in one line, and a SeqIO task that their module registers."""

import tiny_run

MODULE = '''
"""A user's SeqIO task: lines of one file, in capitals."""
import pathlib
import seqio
import tensorflow as tf

HERE = pathlib.Path(__file__).parent


def capitals(dataset):
    return dataset.map(lambda example: {"targets": tf.strings.upper(example["text"])})


seqio.TaskRegistry.add(
    "capitals",
    source=seqio.TextLineDataSource(
        {"train": str(HERE / "train.txt"), "validation": str(HERE / "held.txt")}
    ),
    preprocessors=[
        lambda dataset: dataset.map(lambda line: {"text": line}),
        capitals,
        seqio.preprocessors.tokenize,
    ],
    output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)},
)
'''
GIN = """\
import capitals_task
include 'configs/runs/quickstart.gin'
TEXT_FILES = None
MIXTURE_OR_TASK = 'capitals'
"""


def test_files_and_a_users_seqio_task_train(tiny, tmp_path):
    for number in range(4):
        path = tmp_path / f"my/{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    (tmp_path / "capitals_task.py").write_text(MODULE)
    for name in ("train.txt", "held.txt"):
        (tmp_path / name).write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    (tmp_path / "task.gin").write_text(GIN)
    two = {"TRAIN_STEPS": 2, "CACHE_DIRECTORY": tmp_path / "caches"}
    fourth = {"TEXT_FILES": f"{tmp_path}/my/*.txt", "HELD_OUT_FRACTION": 0.25}
    files = tiny(tmp_path / "files", **two, **fourth)
    task = [
        argument.replace("configs/runs/quickstart.gin", str(tmp_path / "task.gin"))
        for argument in tiny(tmp_path / "task", **two)
        if "TEXT_FILES" not in argument
    ]
    show = ["data", "show", *task[1:2], *task[3:]]
    answers = tiny_run.run_each([files, task, show], f"sys.path.append({str(tmp_path)!r})")
    assert [answer.returncode for answer in answers] == [0, 0, 0], answers
    assert "QUICK BROWN FOX" in answers[2].stdout
    for workdir in ("files", "task"):
        metrics = tiny_run.metrics(tmp_path / workdir)
        assert len(metrics) == 2 and metrics[-1]["eval_bits_per_byte"] > 0
