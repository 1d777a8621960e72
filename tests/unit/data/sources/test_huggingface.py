import json
import subprocess
import sys
import types

import pytest

from palmscale.data.sources import huggingface
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.errors import UserError

# The library keeps state and threads: one process for all of it.
SCRIPT = r"""
import json, pathlib, sys
import datasets
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.errors import UserError

root, out = pathlib.Path(sys.argv[1]), {}
texts = [f"text {i}" for i in range(25)]
data = datasets.Dataset.from_dict({"text": texts, "source": ["ab"[i % 2] for i in range(25)]})
for folder in ("json", "parquet", "arrow", "both", "disk", "dict"):
    (root / folder).mkdir()
data.to_json(str(root / "json/a.jsonl"))
data.to_parquet(str(root / "parquet/a.parquet"))
data.to_parquet(str(root / "both/train-0.parquet"))
data.select(range(3)).to_parquet(str(root / "both/validation-0.parquet"))
data.save_to_disk(str(root / "disk"))
datasets.DatasetDict({"train": data, "validation": data.select(range(4))}).save_to_disk(
    str(root / "dict"))

def read(source):
    return {shard.name: [[d.text, d.group] for d in source.documents(shard)]
            for shard in source.shards()}

for name in ("json", "parquet", "disk"):
    source = HuggingFace(dataset=str(root / name), group_key="source")
    out[name] = [list(read(source).values()), [s.split for s in source.shards()]]
out["streamed"] = list(read(HuggingFace(dataset=str(root / "parquet"), streaming=True)).values())
for path in ("usual/train.jsonl", "usual/test.jsonl", "usual/val.jsonl",
             "nested/data/dev/0.jsonl.gz",
             "nested/data/train/0.jsonl", "nested/data/test/0.jsonl",
             "nested/.ipynb_checkpoints/train.jsonl"):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    count = {"t": 40, "v": 9, "d": 5}[path.split("/")[-2 if "nested/data" in path else -1][0]]
    data.select([0] * count).to_json(
        str(root / path), compression="gzip" if path.endswith("gz") else None)
datasets.DatasetDict({"train": data, "dev": data.select(range(4)), "test": data}).save_to_disk(
    str(root / "dev"))
for name in ("both", "dict", "usual", "nested", "dev"):
    found = read(HuggingFace(dataset=str(root / name)))
    out[name] = {shard: len(rows) for shard, rows in found.items()}

import palmscale.data.sources.huggingface as huggingface
huggingface._SHARD_ROWS = 10
source = HuggingFace(dataset=str(root / "disk"), text_key="text")
out["ranges"] = [row for rows in read(source).values() for row in rows] == [[t, ""] for t in texts]
out["range count"] = len(source.shards())
out["stamps"] = len({s.stamp for s in source.shards()})

def refusal(**options):
    try:
        source = HuggingFace(**options)
        list(source.documents(source.shards()[0]))
    except UserError as error:
        return str(error)

streamed = HuggingFace(dataset=str(root / "json"), streaming=True)
before = streamed.shards()
(root / "json/a.jsonl").write_text('{"text": "new"}\n{"text": \n')
huggingface._load.cache_clear()
(after,) = streamed.shards()
out["streamed stamp"] = before[0].stamp != after.stamp and before[0].name == after.name
out["damaged"] = [list(d) for d in streamed.documents(after)]
(root / "tests_only").mkdir()
data.to_json(str(root / "tests_only/test.jsonl"))
out["tests only"] = refusal(dataset=str(root / "tests_only"))
out["missing column"] = refusal(dataset=str(root / "disk"), text_key="body")
out["unreachable"] = refusal(dataset="nobody/nothing-here")
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("hub"))]
    import os

    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("h"))}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_local_folders_of_every_kind_give_the_same_documents(out):
    expected = [[[f"text {i}", "ab"[i % 2]] for i in range(25)]]
    for kind in ("json", "parquet", "disk"):
        documents, splits = out[kind]
        assert documents == expected and splits == [None]
    assert out["streamed"] == [[[f"text {i}", ""] for i in range(25)]]


def test_a_split_validation_is_kept(out):
    assert out["both"] == out["both"] | {"train-00000-of-00001": 25}
    assert out["both"]["validation-00000-of-00001"] == 3
    for name in ("dict", "dev"):
        assert out[name] == {"train-00000-of-00001": 25, "validation-00000-of-00001": 4}


def test_a_folder_keeps_its_splits_and_its_test_set_is_not_read(out):
    assert out["usual"] == {"train-00000-of-00001": 40, "validation-00000-of-00001": 9}
    assert "it has files to evaluate on, but none to train on" in out["tests only"]
    assert out["nested"] == {"train-00000-of-00001": 40, "validation-00000-of-00001": 5}


def test_ranges_of_rows_are_shards_and_lose_none(out):
    assert out["ranges"] and out["range count"] == 3 and out["stamps"] == 1


def test_a_stream_has_a_stamp_and_its_damage_a_place(out):
    assert out["streamed stamp"]
    *_, (location, reason, _) = out["damaged"]
    assert "/json/train-00000-of-00001:" in location and "cannot be read from here on" in reason


def test_mistakes_are_one_line(out):
    assert "no column 'body' (it has text, source)" in out["missing column"]
    assert "HuggingFace.dataset='nobody/nothing-here' cannot be loaded" in out["unreachable"]
    assert all("\n" not in out[key] for key in ("missing column", "unreachable"))


def test_a_commit_on_the_hub_changes_the_stamp(monkeypatch):
    commits = iter(["c1", "c2"])

    def builder(*given, **options):
        splits = {"train": types.SimpleNamespace(num_shards=2)}
        return types.SimpleNamespace(
            config_id="en", hash=next(commits), as_streaming_dataset=lambda: splits
        )

    library = types.SimpleNamespace(
        load_dataset_builder=builder, disable_progress_bars=lambda: None
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    stamps = []
    for _ in range(2):
        huggingface._load.cache_clear()
        shards = HuggingFace(dataset="a hub/name", streaming=True).shards()
        assert [shard.name for shard in shards] == [f"train-0000{i}-of-00002" for i in range(2)]
        stamps.append({shard.stamp for shard in shards})
    huggingface._load.cache_clear()
    assert stamps == [{"en-c1"}, {"en-c2"}]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"palmscale\[hf\]"):
        HuggingFace(dataset="x").shards()
