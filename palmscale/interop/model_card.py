"""The model card: README.md of a Hugging Face folder."""

import json
from collections.abc import Iterator

import palmscale
from palmscale.interop.expressible import check_is_palm
from palmscale.interop.layouts import Outgoing


def model_card(outgoing: Outgoing) -> str:
    """Returns the card's text: its metadata as YAML, then what is known of the model."""
    # JSON is YAML.
    metadata = [f"{name}: {json.dumps(value)}" for name, value in _metadata(outgoing)]
    return "\n".join(["---", *metadata, "---", "", *_text(outgoing)]) + "\n"


def _metadata(outgoing: Outgoing) -> Iterator[tuple[str, object]]:
    for name in ("license", "language"):
        if value := outgoing.origin.get(name):
            yield name, value
    yield "library_name", "transformers"
    yield "pipeline_tag", "text-generation"
    yield "tags", ["palm", "palmscale"]


def _text(outgoing: Outgoing) -> Iterator[str]:
    model, origin = check_is_palm(outgoing.model, "hf"), outgoing.origin
    yield f"# {origin.get('name', 'PaLM')}"
    yield ""
    yield (
        "A PaLM (Chowdhery et al. 2022, arXiv:2204.02311): a decoder-only Transformer with parallel"
        " layers, multi-query attention, SwiGLU and rotary positions. It is stored as the same"
        " architecture in Hugging Face's words, `Cohere2MoeForCausalLM` with every layer dense."
    )
    yield ""
    yield "|  |  |"
    yield "|---|---|"
    rows = {
        "Parameters": f"{origin['num_params']:,}" if "num_params" in origin else None,
        "Layers, width, heads of size": (
            f"{model.depth}, {model.dim:,}, {model.heads} of {model.dim_head}"
        ),
        "Vocabulary": f"{outgoing.vocabulary.name}, {outgoing.vocabulary.size:,} tokens",
        "Context length": f"{outgoing.context_length:,} tokens",
        "Weights": outgoing.dtype,
        "Training step": f"{origin['step']:,}" if "step" in origin else None,
        "Averaged over": _averaged(origin.get("averaged", 1)),
        "Imported from": origin.get("imported"),
        "Written by": f"palmscale {palmscale.__version__}",
    }
    for name, value in rows.items():
        if value:
            yield f"| {name} | {value} |"
    if datasets := origin.get("datasets"):
        yield ""
        yield "Training data, by the SHA-256 of palmscale's manifest of the rows:"
        yield ""
        for name, digest in datasets.items():
            yield f"- {name or 'rows'}: `{digest}`"


def _averaged(checkpoints: int) -> str | None:
    return f"{checkpoints} checkpoints" if checkpoints > 1 else None
