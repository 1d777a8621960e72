"""The exports of the cases that other engines run; see engine_cases.py."""

import dataclasses
import hashlib
import json
import pathlib
import tempfile

import engine_cases
import numpy as np

from palmscale import PaLM
from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.data.vocabulary import ByteVocabulary, RawByteVocabulary, SentencePieceVocabulary
from palmscale.interop import gguf_file, hf, hf_tokenizer
from palmscale.interop.layouts import Outgoing
from palmscale.interop.tensors import of_array

CONTEXT_LENGTH = 64
MODELS = pathlib.Path(__file__).parents[2] / "parity"


def model(case):
    return PaLM(**engine_cases.fields(case), query_chunk=8)


def outgoing(case, dtype="float32", vocabulary=None):
    params = {name: of_array(a) for name, a in engine_cases.parameters(case).items()}
    return Outgoing(
        model=model(case),
        params=params,
        vocabulary=vocabulary or ByteVocabulary(),
        context_length=CONTEXT_LENGTH,
        dtype=dtype,
    )


def variables(case):
    """The variables of `model(case)`."""
    tree = {"layers": {}}
    for name, values in engine_cases.parameters(case).items():
        place, _, last = name.rpartition("/")
        (tree[place] if place else tree)[last] = values
    return {"params": tree}


def digest(tensors):
    """Of the names, shapes and values of tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name].read())
        found.update(f"{name} {values.shape} {values.dtype}".encode() + values.tobytes())
    return found.hexdigest()


def vocabulary(name):
    """One of the vocabularies whose ids other engines are asked for."""
    if name == "bytes":
        return ByteVocabulary()
    if name == "raw_bytes":
        return RawByteVocabulary()
    if name == "tokenizer":
        return TokenizerVocabulary(str(MODELS / "gpt2_like"))
    return SentencePieceVocabulary(str(MODELS / f"{name}.model"))


def with_vocabulary(name):
    """A small model with that vocabulary."""
    found = outgoing("rms_narrow", vocabulary=vocabulary(name))
    rows = found.vocabulary.size
    table = engine_cases.uniform("table", (rows, engine_cases.DIM)).astype(np.float32)
    return dataclasses.replace(
        found,
        model=found.model.clone(num_tokens=rows),
        params={**found.params, "embedding": of_array(table)},
    )


def digests(case):
    """Of the float32 tensors of each layout."""
    found = outgoing(case)
    return {
        "hf": digest(hf.exported(found.model, found.params)),
        "gguf": digest(gguf_file.exported(found.model, found.params)),
    }


def vocabulary_digests(name):
    """Of what each layout says of a vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        hf_tokenizer.write_tokenizer(vocabulary(name), path, context_length=CONTEXT_LENGTH)
        files = [(path / f).read_bytes() for f in ("tokenizer.json", "tokenizer_config.json")]
        gguf_file.write(with_vocabulary(name), path / "x.gguf")
        fields, _ = gguf_file.read(path / "x.gguf")
    told = {key: value for key, value in fields.items() if key.startswith("tokenizer.")}
    return {
        "hf files": hashlib.sha256(b"".join(files)).hexdigest(),
        "gguf fields": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
    }
