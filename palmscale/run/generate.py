"""Text from a run's folder."""

from collections.abc import Iterable

from palmscale.run.load import load
from palmscale.run.workdir import Workdir


def generate(
    workdir: Workdir,
    prompt: str = "",
    *,
    checkpoint: int | str = "latest",
    modules: Iterable[str] = (),
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> str:
    """Returns the text that a trained model writes after `prompt`.

    To generate more than once, `load` the model once.

    Args:
        workdir: the run's folder.
        prompt: the text to continue.
        checkpoint: `latest`, `best` or a step.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.
        max_tokens: tokens to write at most.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: choose among the k likeliest tokens; None: all.
        top_p: choose among the likeliest tokens that hold this probability; None: all.
        seed: the same seed writes the same text.

    Raises:
        UserError: there is no such checkpoint, or the model cannot generate.
    """
    return load(workdir, checkpoint, modules=modules).generate(
        prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
