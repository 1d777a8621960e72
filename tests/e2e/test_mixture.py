"""The Pile's format, a folder of Parquet by `datasets`, and a directory of text, as one mixture."""

import json
import re

import pytest
import tiny_run
import zstandard

GIN = """\
include 'configs/runs/quickstart.gin'

Data.corpus = None
Data.components = (@pile/Component(), @hub/Component(), @text/Component())
Component.corpus = @Corpus()

pile/Component.name = 'pile'
pile/Component.weight = 5
pile/Corpus.source = @Pile()
Pile.files = '{folder}/pile/*.jsonl.zst'

hub/Component.name = 'hub'
hub/Component.weight = 3
hub/Corpus.source = @HuggingFace()
HuggingFace.dataset = '{folder}/parquet'

text/Component.name = 'text'
text/Component.weight = 2
text/Corpus.source = @TextFiles()
TextFiles.files = '{folder}/text/**/*.py'
"""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A gin file of three corpora, which hold the sources of three packages of the checkout."""
    from pyarrow import Table, parquet

    folder = tmp_path_factory.mktemp("mixture")
    found = {name: sorted((tiny_run.CHECKOUT / "palmscale" / name).glob("*.py")) for name in
             ("data", "train", "checkpoint")}  # fmt: skip
    texts = {name: [path.read_text() for path in paths] for name, paths in found.items()}
    for name in ("pile", "parquet", "text"):
        (folder / name).mkdir()
    for number in range(2):
        lines = [
            json.dumps({"text": text, "meta": {"pile_set_name": path.stem}})
            for path, text in list(zip(found["data"], texts["data"]))[number::2]
        ]
        compressed = zstandard.compress("\n".join(lines).encode())
        (folder / f"pile/{number:02}.jsonl.zst").write_bytes(compressed)
        table = Table.from_pydict({"text": [text for text in texts["train"][number::2] if text]})
        parquet.write_table(table, folder / f"parquet/{number}.parquet")
    for path, text in zip(found["checkpoint"], texts["checkpoint"]):
        (folder / "text" / path.name).write_text(text)
    path = folder / "mixture.gin"
    path.write_text(GIN.format(folder=folder))
    return path


def test_three_kinds_of_corpora_build_into_one_mixture_train_and_are_shown(
    mixture, tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    flags = [
        f"--gin_file={mixture}",
        *(flag for flag in tiny("")[3:] if not flag.startswith("--gin.TEXT_FILES")),
        "--gin.TRAIN_STEPS=16",
    ]
    built, trained, shown, verified = tiny_run.run_each(
        [
            ["data", "build", *flags],
            ["train", *flags, f"--workdir={tmp_path}/run"],
            ["data", "show", *flags, "--rows=20", f"--picture={tmp_path}/mixture.png"],
            ["data", "verify", *flags],
        ]
    )
    assert [each.returncode for each in (built, trained, shown, verified)] == [0] * 4, built.stderr
    folders = re.findall(r"^(\w+): .*/(\w+)-\w+-\w+$", built.stdout, re.MULTILINE)
    assert folders == [("pile", "pile"), ("hub", "huggingface"), ("text", "textfiles")]
    assert "groups" in built.stdout and "Building" not in trained.stderr
    metrics = tiny_run.metrics(tmp_path / "run")
    losses = [row["loss"] for row in metrics]
    # The text is this project's own: any one batch may be a hard one.
    assert len(losses) == 16 and sum(losses[8:]) < sum(losses[:8])
    for name in ("pile", "hub", "text"):
        assert metrics[-1][f"eval_loss/{name}"] > 0
        assert f"of the mixture: {name}\n" in shown.stdout
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
