"""Imported weights make a run's folder like any other."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_sentencepiece
from small_state import abstract

import palmscale
from palmscale.checkpoint.warm_start import WarmStart, warm_parameters
from palmscale.errors import UserError
from palmscale.interop import hf
from palmscale.interop.layouts import ImportLayout, Options
from palmscale.run.export import export
from palmscale.run.import_weights import import_weights
from palmscale.run.workdir import checkpoints
from palmscale.trees import named_leaves


@pytest.fixture(scope="module")
def exported(result, workdir, tmp_path_factory):
    """A Hugging Face folder and a file of palmscale's, of the small run."""
    folder = tmp_path_factory.mktemp("exported")
    export(workdir, "hf", folder / "hf", check=False)
    export(workdir, "safetensors", folder / "a.safetensors")
    return {"hf": folder / "hf", "safetensors": folder / "a.safetensors"}


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    """The folders of runs that were imported, by layout. Not to be written to."""
    folder = tmp_path_factory.mktemp("imported")
    for layout, source in exported.items():
        import_weights(source, layout, folder / layout)
    return {layout: folder / layout for layout in exported}


def test_our_own_file_comes_back_bit_for_bit(imported, workdir):
    ours, theirs = palmscale.load(workdir), palmscale.load(imported["safetensors"])
    assert theirs.model == ours.model and theirs.step == 0
    for name, leaf in named_leaves(theirs.params).items():
        assert np.array_equal(leaf, named_leaves(ours.params)[name])


@pytest.mark.parametrize("layout", ["hf", "safetensors"])
def test_it_generates_and_scores_as_the_run_did(layout, imported, workdir):
    ours, theirs = palmscale.load(workdir), palmscale.load(imported[layout])
    assert theirs.generate("def ", max_tokens=9, temperature=0) == ours.generate(
        "def ", max_tokens=9, temperature=0
    )
    text = "def a(x):\n"
    (a,), (b,) = ours.score([text]), theirs.score([text])
    np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, atol=1e-5)


def test_its_meta_says_what_it_is_and_where_it_is_from(imported, workdir):
    meta, trained = (checkpoints(w).read_meta() for w in (imported["safetensors"], workdir))
    assert meta["imported"] == {"layout": "safetensors", "source": "a.safetensors"}
    assert meta["identity"] == {"model": trained["identity"]["model"]}
    for name in ("vocabulary", "sequence_length", "num_params", "mesh"):
        assert meta[name] == trained[name]
    assert "run" not in meta and meta["operative_config"] == ""


def test_another_run_may_start_from_it(imported, workdir):
    params = named_leaves(palmscale.load(workdir).params)
    warm = WarmStart(workdir=str(imported["safetensors"]))
    step, arrays = warm_parameters(warm, checkpoints(warm.workdir), abstract(params))
    assert step == 0
    assert all(np.array_equal(arrays[name], leaf) for name, leaf in params.items())


def test_the_table_is_padded_so_that_it_divides_over_a_mesh(exported, imported, tmp_path):
    import_weights(exported["hf"], "hf", tmp_path / "run", padded_tokens=272)
    padded, plain = palmscale.load(tmp_path / "run"), palmscale.load(imported["hf"])
    assert padded.model == dataclasses.replace(plain.model, padded_tokens=272)
    table = np.asarray(padded.params["embedding"])
    assert table.shape[0] == 272 and not table[259:].any()
    assert np.array_equal(table[:259], plain.params["embedding"])
    with pytest.raises(UserError, match="padded_tokens=258 is less than the 259 rows"):
        import_weights(exported["hf"], "hf", tmp_path / "new", padded_tokens=258)
    assert not (tmp_path / "new").exists()


def test_no_run_resumes_from_it(imported, small_run):
    with pytest.raises(UserError, match="holds imported weights, .* WarmStart.workdir='.*tensors'"):
        palmscale.train(small_run, imported["safetensors"])


def test_an_import_that_was_killed_starts_again(exported, tmp_path):
    (tmp_path / "run" / "checkpoints" / "0" / "params").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "0" / "params" / "rest").write_bytes(b"123")
    import_weights(exported["hf"], "hf", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "0" / "params" / "rest").exists()


def test_a_run_in_a_bucket_is_imported_to_and_exported_from(exported, bucket, tmp_path):
    import_weights(exported["safetensors"], "safetensors", f"{bucket.url}/run")
    export(f"{bucket.url}/run", "safetensors", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == exported["safetensors"].read_bytes()


def test_a_folder_with_checkpoints_is_left_alone(exported, imported):
    with pytest.raises(UserError, match="has checkpoints already; choose a folder"):
        import_weights(exported["hf"], "hf", imported["hf"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(source="nowhere"), "source=nowhere does not exist"),
        (dict(layout="onnx"), "no import layout 'onnx'"),
        (dict(options=Options(dim_head=3)), "hf does not take the option dim_head; it takes: none"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(options, said, exported, tmp_path):
    given = {"source": exported["hf"], "layout": "hf"} | options
    with pytest.raises(UserError, match=said) as error:
        import_weights(workdir=tmp_path / "run", **given)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_vocabulary_that_does_not_fit_is_told_by_its_size(exported, tmp_path):
    model = tiny_sentencepiece.train(tmp_path / "v.model")
    with pytest.raises(UserError, match=r"sentencepiece has \d+ tokens, .* table has 259 rows"):
        import_weights(exported["hf"], "hf", tmp_path / "run", vocabulary=str(model))
    assert not (tmp_path / "run").exists()


def test_without_a_vocabulary_one_is_asked_for(exported, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((exported["hf"] / name).read_bytes())
    with pytest.raises(UserError, match="choose one: vocabulary=bytes"):
        import_weights(bare, "hf", tmp_path / "run")
    made = import_weights(bare, "hf", tmp_path / "run", vocabulary="bytes", context_length=16)
    assert made.vocabulary.name == "bytes" and made.choice is None
    assert checkpoints(tmp_path / "run").read_meta()["sequence_length"] == 16


def test_text_decides_what_a_file_leaves_open(exported, tmp_path, monkeypatch):
    def two(path, options):
        (found,) = hf.read(path, options)
        scales = {"final_norm": "scaled"}, {"final_norm": "none"}
        return [
            dataclasses.replace(
                found,
                model=dataclasses.replace(found.model, **fields),
                params={k: v for k, v in found.params.items() if k in wanted},
                choice=Options(**fields),
            )
            for fields in scales
            for wanted in [
                found.params.keys() - ({"final_norm"} if fields["final_norm"] == "none" else set())
            ]
        ]

    monkeypatch.setattr(hf, "IMPORT", ImportLayout(read=two))
    with pytest.raises(UserError, match="final_norm=scaled; final_norm=none"):
        import_weights(exported["hf"], "hf", tmp_path / "run")
    (tmp_path / "a.txt").write_text("def a(x):\n    return x + 'a'\n" * 9)
    made = import_weights(
        exported["hf"], "hf", tmp_path / "run", text_files=[str(tmp_path / "*.txt")]
    )
    assert made.choice.final_norm == made.model.final_norm == "scaled"


def test_damaged_weights_are_told(exported, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((exported["hf"] / "config.json").read_bytes())
    content = (exported["hf"] / "model.safetensors").read_bytes()
    (bare / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"model.safetensors is not whole: .* download it again"):
        import_weights(bare, "hf", tmp_path / "run", vocabulary="bytes")
    (bare / "model.safetensors").write_bytes(content)
    config = json.loads((bare / "config.json").read_text()) | {"architectures": ["X"]}
    (bare / "config.json").write_text(json.dumps(config | {"model_type": "x"}))
    with pytest.raises(UserError, match="describes X; palmscale imports Cohere2Moe"):
        import_weights(bare, "hf", tmp_path / "run", vocabulary="bytes")
    assert not (tmp_path / "run").exists()
