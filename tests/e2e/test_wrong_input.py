"""Each mistake on the command line or in a gin file: one clear line, exit code 2, nothing lost."""

import shutil

import pytest
import tiny_run

# name: (what to type, given a `Place`; what the one line must say)
MISTAKES = {
    "unknown macro": (lambda at: at.train(TRAIN_STEP=5), "TRAIN_STEP", "TRAIN_STEPS"),
    "unknown parameter": (
        lambda at: at.train(**{"PaLM.dims": 5}), "PaLM", "dims", "did you mean dim"),
    "wrong type": (lambda at: at.train(TRAIN_STEPS="'many'"), "TRAIN_STEPS", "int"),
    "missing gin file": (
        lambda at: ["train", "--gin_file=configs/runs/quickstrat.gin"],
        "quickstrat.gin", "configs/runs/quickstart.gin"),
    "no gin file": (lambda at: ["train"], "--gin_file="),
    "missing text": (
        lambda at: at.train(TEXT_FILES=at.folder / "no/*.txt"), "TEXT_FILES", "matches no file"),
    "heads that do not divide": (
        lambda at: at.train(**{"PaLM.heads": 3}), "heads", "3", "multiple of 2"),
    "vocabulary too large": (
        lambda at: at.train(NUM_TOKENS=200), "259 tokens", "num_tokens=200", "NUM_TOKENS"),
    "unwritable workdir": (
        lambda at: at.train(at.file / "run"), "cannot write to workdir=", "--workdir"),
    "a folder in place of text": (
        lambda at: at.train(TEXT_FILES=at.folder), "TEXT_FILES", "is a folder", "/**/*."),
    "text set to nothing": (lambda at: at.train(TEXT_FILES="''"), "TEXT_FILES", "is empty"),
    "empty corpus": (
        lambda at: at.train(TEXT_FILES=at.empty), "corpus is empty", "TEXT_FILES"),
    "too little text": (
        lambda at: at.train(TEXT_FILES=at.short),
        "sequence_length=32", "SEQUENCE_LENGTH", "5 tokens"),
    "invalid UTF-8": (
        lambda at: at.train(TEXT_FILES=at.latin), "latin.txt: byte 3 is not UTF-8"),
    "batch that does not divide": (
        lambda at: at.train(BATCH_SCHEDULE="((0, 6),)"), "BATCH_SCHEDULE", "multiple of 4"),
    "batch that does not divide over microbatches": (
        lambda at: at.train(GRADIENT_ACCUMULATION_STEPS=3),
        "gradient_accumulation_steps=3", "GRADIENT_ACCUMULATION_STEPS", "multiple of 12"),
    "mesh that does not fit": (lambda at: at.train(DATA=3), "data=3", "SIMULATED_DEVICES"),
    "two corpora": (
        lambda at: at.train(JSONL_FILES="x.jsonl"),
        "one_of.text_files and one_of.jsonl_files", "TEXT_FILES", "JSONL_FILES"),
    "missing cache": (lambda at: at.train(CACHE=at.folder / "no"), "manifest.json"),
    "unregistered mixture": (
        lambda at: at.train(TEXT_FILES=None, MIXTURE_OR_TASK="mine"),
        "mixture_or_task='mine'", "MIXTURE_OR_TASK"),
    "unknown command": (lambda at: ["trian"], "unknown command trian", "train"),
    "unknown flag": (lambda at: [*at.train(), "--workdri=x"], "--workdri", "--workdir"),
    "gin flag without value": (lambda at: [*at.train(), "--gin.TRAIN_STEPS"], "TRAIN_STEPS=VALUE"),
    "generate without a run": (
        lambda at: ["generate", f"--workdir={at.folder / 'nothing'}"], "no run", "nothing"),
    "eval without a run": (lambda at: ["eval", f"--workdir={at.folder / 'nothing'}"], "no run"),
    "unknown checkpoint": (
        lambda at: ["generate", f"--workdir={at.workdir}", "--checkpoint=7"],
        "no verified checkpoint of step 7", "12, 16"),
    "bad checkpoint": (
        lambda at: ["generate", f"--workdir={at.workdir}", "--checkpoint=last"], "last", "latest"),
    "missing prompt file": (
        lambda at: ["generate", f"--workdir={at.workdir}", f"--prompt_file={at.folder / 'no'}"],
        "--prompt_file"),
    "prompt that is not UTF-8": (
        lambda at: ["generate", f"--workdir={at.workdir}", f"--prompt_file={at.latin}"],
        "--prompt_file", "not UTF-8 at byte 3"),
    "bad temperature": (
        lambda at: ["generate", f"--workdir={at.workdir}", "--temperature=-1"], "--temperature"),
}  # fmt: skip


class Place:
    """A finished run, and files that are wrong in one way each."""

    def __init__(self, folder, tiny, finished):
        self.folder, self.tiny = folder, tiny
        self.workdir = shutil.copytree(finished, folder / "run")
        files = {"file": b"", "empty": b"", "short": b"four", "latin": b"caf\xe9 " * 100}
        for name, content in files.items():
            path = folder / f"{name}.txt"
            path.write_bytes(content)
            setattr(self, name, path)

    def train(self, workdir=None, **changes):
        """Trains on in the finished run, unless another workdir is given."""
        return self.tiny(workdir or self.workdir, **({"TRAIN_STEPS": 20} | changes))


def contents(folder):
    """Of each file, but for LEASE, which names the last holder."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "LEASE")
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def answers(tiny, finished, tmp_path_factory):
    at = Place(tmp_path_factory.mktemp("mistakes"), tiny, finished)
    answers = tiny_run.run_each([make(at) for make, *_ in MISTAKES.values()])
    return dict(zip(MISTAKES, answers, strict=True)) | {"workdir": at.workdir}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_clear_line_and_exit_code_2(answers, mistake):
    answer, (_, *needed) = answers[mistake], MISTAKES[mistake]
    lines = answer.stderr.splitlines()
    assert answer.returncode == 2 and answer.stdout == "", lines
    assert lines[-1].startswith("palmscale: error: ") and "Traceback" not in answer.stderr
    assert [line for line in lines[:-1] if not line.startswith(("Rows of", "Building"))] == []
    assert [part for part in needed if part not in lines[-1]] == [], lines[-1]


def test_no_mistake_costs_anything(answers, finished):
    assert contents(answers["workdir"]) == contents(finished)


def test_no_arguments_at_all_shows_the_help():
    done = tiny_run.run(code=2)
    assert "usage: palmscale" in done.stderr and "train" in done.stderr
