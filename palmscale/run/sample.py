"""The sample that a run prints once it is trained."""

from typing import Any

import jax

from palmscale.data.vocabulary import Vocabulary
from palmscale.infer.engine import Engine
from palmscale.infer.partition import parameter_bytes
from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.infer.text import encode_prompt, stream_text
from palmscale.infer.weights import decoding_form, form_on
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
    device = jax.local_devices()[0]
    model, variables = decoding_form(
        run.model, jax.device_put(params, device), **form_on(device.platform)
    )
    request = Request(
        prompt=prompt_ids,
        max_tokens=run.reporting.sample_tokens,
        sampling=Sampling(temperature=0.7),
        seed=run.training.seed,
        stop_ids=frozenset([vocabulary.eod_id]),
    )
    context_length = len(prompt_ids) + request.max_tokens
    engine = Engine(model=model, variables=variables, slots=1, context_length=context_length)
    drawn = (token.id for _, output in engine.run([request]) for token in output.tokens)
    ids = (i for i in drawn if i != vocabulary.eod_id)
    pieces = stream_text(ids, vocabulary, prompt=prompt, prompt_ids=prompt_ids)
    log.say(f"A sample:\n{prompt}{''.join(pieces)}\n")
