"""The sample that a run prints once it is trained."""

from typing import Any

import jax

from palmscale.data.vocabulary import Vocabulary
from palmscale.infer.continuation import TextRequest, context_length_of, continued
from palmscale.infer.engine import Engine
from palmscale.infer.partition import parameter_bytes
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
    device = jax.local_devices()[0]
    model, variables = decoding_form(
        run.model, jax.device_put(params, device), **form_on(device.platform)
    )
    request = TextRequest(
        prompt=prompt,
        max_tokens=run.reporting.sample_tokens,
        temperature=0.7,
        seed=run.training.seed,
    )
    context_length = context_length_of([request.encoded(vocabulary)])
    engine = Engine(model=model, variables=variables, slots=1, context_length=context_length)
    text = "".join(piece.text for _, piece in continued(engine, vocabulary, [request]))
    log.say(f"A sample:\n{prompt}{text}\n")
