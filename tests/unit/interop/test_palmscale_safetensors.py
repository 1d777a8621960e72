"""palmscale's own file: parameters, model and vocabulary come back bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sentencepiece
from outgoing_model import MODEL, arrays, outgoing

from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.interop import palmscale_safetensors as layout
from palmscale.interop.layouts import Options
from palmscale.interop.safetensors_file import read_metadata, read_safetensors, write_safetensors
from palmscale.interop.tensors import of_array
from palmscale.partition.shardings import unbox
from palmscale.trees import named_leaves

FIELDS = dict(final_norm="none", rotary="xpos", remat=("gate", "up"), logit_scale=0.5)


def rewritten(path, metadata=None, **tensors):
    """Writes the file again with other metadata or tensors."""
    old = {name: of_array(one.read()) for name, one in read_safetensors(path).items()}
    write_safetensors(path, old | tensors, metadata=read_metadata(path) | (metadata or {}))


@pytest.fixture
def file(tmp_path):
    layout.write(outgoing(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("fields", [{}, FIELDS])
def test_a_model_comes_back_with_the_same_bytes(fields, tmp_path):
    model = dataclasses.replace(MODEL, **fields)
    layout.write(outgoing(model), tmp_path / "1.safetensors")
    (found,) = layout.read(tmp_path / "1.safetensors", Options())
    assert found.model == model and found.context_length == 64
    for name, array in arrays(model).items():
        assert np.array_equal(found.params[name].read(), array)
    again = dict(model=found.model, params=found.params, vocabulary=found.vocabulary)
    layout.write(outgoing(**again), tmp_path / "2.safetensors")
    ours, theirs = ((tmp_path / f"{n}.safetensors").read_bytes() for n in "12")
    assert ours == theirs


def test_the_shapes_are_those_of_the_module():
    made = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = {name: leaf.shape for name, leaf in named_leaves(unbox(made["params"])).items()}
    assert layout.parameter_shapes(MODEL) == shapes


def test_the_vocabulary_travels_in_the_file(tmp_path):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "v.model"))
    model = dataclasses.replace(MODEL, num_tokens=vocabulary.size, padded_tokens=None)
    layout.write(outgoing(model, vocabulary=vocabulary), tmp_path / "a.safetensors")
    (found,) = layout.read(tmp_path / "a.safetensors", Options())
    text = "def encode(text): # é"
    assert found.vocabulary.digest == vocabulary.digest
    assert np.array_equal(found.vocabulary.encode(text), vocabulary.encode(text))


def test_a_file_of_another_program_is_refused(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": of_array(np.zeros(3))})
    with pytest.raises(UserError, match="is not a file that palmscale exported"):
        layout.read(tmp_path / "a.safetensors", Options())


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"model": "{"}, "metadata of .* are not whole"),
        ({"context_length": "x"}, "metadata of .* are not whole"),
        ({"model": '{"dim": 16, "new_field": 3}'}, "fields that it does not have .new_field"),
        ({"model": '{"dim": "16"}'}, "describes a PaLM that cannot be built"),
        ({"model": "[]"}, "no object"),
        ({"vocabulary": '{"kind": "other", "digest": ""}'}, "the vocabulary kind 'other'"),
    ],
)
def test_damaged_metadata_are_told(metadata, said, file):
    rewritten(file, metadata)
    with pytest.raises(UserError, match=said):
        layout.read(file, Options())


def test_other_tensors_are_listed_and_files_stay_inside_the_folder(file):
    rewritten(file, extra=of_array(np.zeros(3)))
    with pytest.raises(UserError, match=r"unknown: extra \[3\]"):
        layout.read(file, Options())
    layout.write(outgoing(), file)
    rewritten(file, **{"vocabulary/../../evil": of_array(np.zeros(3, np.uint8))})
    with pytest.raises(UserError, match="expected a relative path inside the folder"):
        layout.read(file, Options())
