"""A tiny PaLM with weights by formula, as it is exported."""

import dataclasses

import numpy as np
from formula_weights import uniform

from palmscale import PaLM
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.interop.layouts import Outgoing
from palmscale.interop.palmscale_safetensors import parameter_shapes
from palmscale.interop.tensors import of_array

MODEL = PaLM(dim=16, num_tokens=259, padded_tokens=264, depth=2, heads=3, dim_head=4, ff_mult=2)


def arrays(model=MODEL):
    """Float32 parameters of a model by path."""
    return {
        name: uniform(name, shape).astype(np.float32)
        for name, shape in parameter_shapes(model).items()
    }


def outgoing(model=MODEL, **fields):
    """The model and its parameters, on their way out in float32."""
    params = {name: of_array(array) for name, array in arrays(model).items()}
    made = Outgoing(
        model=model,
        params=params,
        vocabulary=ByteVocabulary(),
        context_length=64,
        dtype="float32",
        origin={"name": "tiny", "step": 7, "num_params": 12_345},
    )
    return dataclasses.replace(made, **fields)
