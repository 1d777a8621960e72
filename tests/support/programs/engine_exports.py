"""The exports of the cases that other engines run; see engine_cases.py."""

import hashlib

import engine_cases
import numpy as np

from palmscale import PaLM
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.interop.layouts import Outgoing
from palmscale.interop.tensors import of_array

CONTEXT_LENGTH = 64


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
