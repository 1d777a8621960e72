"""The sample that a run prints once it is trained."""

import itertools
from typing import Any

import jax

from palmscale.data.vocabulary import Vocabulary
from palmscale.infer.generate import generate
from palmscale.infer.partition import parameter_bytes
from palmscale.infer.sampling import Sampling
from palmscale.infer.text import encode_prompt, stream_text
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
    prompt_ids = encode_prompt(vocabulary, prompt)
    tokens = generate(
        model=run.model,
        params=jax.device_put(params, jax.local_devices()[0]),
        prompt=prompt_ids,
        sampling=Sampling(temperature=0.7),
        seed=run.training.seed,
        max_tokens=run.reporting.sample_tokens,
    )
    ids = itertools.takewhile(lambda i: i != vocabulary.eod_id, (int(t[0]) for t in tokens))
    pieces = stream_text(ids, vocabulary, prompt=prompt, prompt_ids=prompt_ids)
    log.say(f"A sample:\n{prompt}{''.join(pieces)}\n")
