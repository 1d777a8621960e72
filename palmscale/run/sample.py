"""The sample that a run prints once it is trained."""

from typing import Any

import jax

from palmscale.data.vocabulary import Vocabulary
from palmscale.infer.generate import generate
from palmscale.infer.partition import parameter_bytes
from palmscale.infer.sampling import Sampling
from palmscale.infer.text import before_end, encode_prompt
from palmscale.model import interface
from palmscale.observe import log
from palmscale.run.load import ONE_DEVICE_BYTES
from palmscale.run.run import Run


def say_sample(run: Run, vocabulary: Vocabulary, params: Any) -> None:
    """Prints how a just trained model continues the run's prompt, if it asks for a sample.

    Nothing for a model that cannot generate, or too large for the one device that writes the sample
    beside the training state.
    """
    prompt = run.reporting.sample_prompt
    if prompt is None or not interface.generates(run.model):
        return
    if parameter_bytes(params) > ONE_DEVICE_BYTES:
        return
    tokens = generate(
        model=run.model,
        params=jax.device_put(params, jax.local_devices()[0]),
        prompt=encode_prompt(vocabulary, prompt),
        sampling=Sampling(temperature=0.7),
        seed=run.training.seed,
        max_tokens=run.reporting.sample_tokens,
    )
    ids = [int(token_B[0]) for token_B in tokens]
    log.say(f"A sample:\n{prompt}{vocabulary.decode(before_end(ids, vocabulary))}\n")
