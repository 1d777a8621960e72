"""A trained model from a run's folder: what its checkpoint stores, on any devices."""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE
from palmscale.data.vocabulary import Vocabulary, load_vocabulary
from palmscale.errors import UserError
from palmscale.infer.generate import generate
from palmscale.infer.layouts import stored_rules
from palmscale.infer.partition import (
    generation_layout,
    generation_rules,
    parameter_bytes,
    placed,
)
from palmscale.infer.sampling import Sampling
from palmscale.infer.score import Score, score
from palmscale.infer.text import before_end, encode_prompt, stream_text
from palmscale.model import interface
from palmscale.partition.layout import DeviceLayout, Layout
from palmscale.partition.mesh import make_mesh
from palmscale.partition.rules import TABLES, MeshAxes
from palmscale.partition.shardings import unbox
from palmscale.run import devices
from palmscale.run.named_classes import import_modules
from palmscale.run.rebuild import rebuild
from palmscale.run.stored_meta import Meta, read_meta
from palmscale.run.workdir import VOCABULARY, Workdir, checkpoints
from palmscale.storage.place import on_disk, place
from palmscale.train.state import abstract_params

# Larger models are spread over all devices.
ONE_DEVICE_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, ready for use.

    Attributes:
        model: the module.
        params: its parameters.
        vocabulary: of its tokens.
        step: at which it was saved.
        meta: what the checkpoint says of its run.
        layout: of the parameters; None: they are on one device.
    """

    model: nn.Module
    params: Any
    vocabulary: Vocabulary
    step: int
    meta: Mapping[str, Any]
    layout: DeviceLayout | None

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """Returns the text that the model writes after `prompt`, up to the end of the document.

        Args:
            prompt: the text to continue.
            max_tokens: tokens to write at most.
            temperature: divides the logits; 0 always takes the likeliest token.
            top_k: choose among the k likeliest tokens; None: all.
            top_p: choose among the likeliest tokens that hold this probability; None: all.
            seed: the same seed writes the same text.

        Raises:
            UserError: the model cannot generate, or a value is out of range.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        return "".join(self.stream(prompt, max_tokens=max_tokens, sampling=sampling, seed=seed))

    def stream(
        self, prompt: str, *, max_tokens: int, sampling: Sampling, seed: int
    ) -> Iterator[str]:
        """Yields the text of `generate` as it grows."""
        tokens = self.tokens(
            prompt, max_tokens=max_tokens, sampling=sampling, seed=seed, num_samples=1
        )
        ids = (int(token_B[0]) for token_B in tokens)
        return self._text(itertools.takewhile(lambda i: i != self.vocabulary.eod_id, ids), prompt)

    def samples(
        self, prompt: str, *, max_tokens: int, sampling: Sampling, seed: int, num_samples: int
    ) -> list[str]:
        """Returns `num_samples` texts that continue `prompt`, drawn side by side."""
        drawn, ended_B = [], np.zeros(num_samples, bool)
        for token_B in self.tokens(
            prompt, max_tokens=max_tokens, sampling=sampling, seed=seed, num_samples=num_samples
        ):
            drawn.append(token_B)
            ended_B |= np.asarray(token_B) == self.vocabulary.eod_id
            if ended_B.all():  # on every process: at the same token
                break
        rows = np.stack(drawn, axis=1).tolist()
        return ["".join(self._text(before_end(ids, self.vocabulary), prompt)) for ids in rows]

    def _text(self, token_ids: Iterable[int], prompt: str) -> Iterator[str]:
        prompt_ids = encode_prompt(self.vocabulary, prompt)
        return stream_text(token_ids, self.vocabulary, prompt=prompt, prompt_ids=prompt_ids)

    def tokens(
        self, prompt: str, *, max_tokens: int, sampling: Sampling, seed: int, num_samples: int
    ) -> Iterator[np.ndarray]:
        """Yields the next token of each sample, int32 [num_samples], `max_tokens` times."""
        with self._entered():
            yield from generate(
                model=self.model,
                params=self.params,
                prompt=encode_prompt(self.vocabulary, prompt),
                sampling=sampling,
                seed=seed,
                num_samples=num_samples,
                max_tokens=max_tokens,
            )

    def score(self, texts: Iterable[str]) -> list[Score]:
        """Returns the log-probabilities of each text, as a document of its own."""
        with self._entered():
            return [
                score(
                    model=self.model,
                    params=self.params,
                    row=encode_prompt(self.vocabulary, text),
                    text_bytes=len(text.encode()),
                )
                for text in texts
            ]

    def _entered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.layout is None else self.layout.entered()


def load(
    workdir: Workdir,
    checkpoint: int | str = "latest",
    layout: Layout | None = None,
    *,
    modules: Iterable[str] = (),
    peers: Peers = ALONE,
) -> Trained:
    """Returns the model of a run's folder, as its checkpoint describes it.

    A checkpoint is data: no code that it names runs, except classes of palmscale's own and Linen
    modules of the user's: of `modules`, and of files that the program has imported.

    Args:
        workdir: the run's folder.
        checkpoint: `latest`, `best` or a step.
        layout: mesh and rules, over all devices; the axes of a user's own module that it does not
            name lie as in training. None: one device, or all of them laid out as in training where
            the parameters exceed 2 GiB or there are several processes.
        modules: to import, whose Linen modules the checkpoint may name: `my_model`.
        peers: the processes that load it together.

    Raises:
        UserError: there is no such checkpoint, or it names a class that it may not.
    """
    devices.start(None)
    modules = tuple(modules)
    reader = checkpoints(workdir, peers=peers)
    import_modules(modules)
    meta = read_meta(reader, checkpoint if isinstance(checkpoint, int) else None)
    model = rebuild(meta["identity"].get("model"), modules, nn.Module)
    boxed = _shapes(model, reader)
    shapes, placed_on = unbox(boxed), None
    if layout is not None:
        mesh = make_mesh(layout.mesh)
        rules = stored_rules(_trained_rules(meta) | layout.table())
        placed_on = DeviceLayout(mesh=mesh, rules=generation_rules(rules, boxed, mesh.shape))
    elif peers.count > 1 or parameter_bytes(shapes) > ONE_DEVICE_BYTES:
        placed_on = generation_layout(
            model, boxed, trained_mesh=meta["mesh"], trained_rules=_trained_rules(meta)
        )
    if placed_on is not None:
        shapes = placed(boxed, placed_on)
    snapshot = reader.restore(
        None if checkpoint == "latest" else checkpoint, abstract_params=shapes
    )
    if snapshot is None:
        raise UserError(f"there is no checkpoint in {workdir}; train first, or name another.")
    with on_disk(place(workdir) / VOCABULARY) as folder:
        vocabulary = load_vocabulary(meta["vocabulary"], folder)
    return Trained(
        model=model,
        params=snapshot.params,
        vocabulary=vocabulary,
        step=snapshot.step,
        meta=snapshot.meta,
        layout=placed_on,
    )


def _shapes(model: nn.Module, reader: CheckpointReader) -> Any:
    """Returns the boxed shapes of a stored model's parameters, whose fields may be anything."""
    stored_bytes = max((info.bytes for info in reader.steps()), default=0)
    try:
        if interface.depth(model) > stored_bytes:  # layers may be traced one by one
            raise UserError(
                f"the checkpoint describes a {type(model).__name__} of {interface.depth(model):,}"
                f" layers and has {stored_bytes:,} bytes; use an intact copy."
            )
        with warnings.catch_warnings(action="ignore"):  # of JAX, about absurd sizes
            return abstract_params(model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the checkpoint describes a {type(model).__name__} that cannot be built"
            f" ({type(error).__name__}: {error}); use an intact copy, or the version that it was"
            " saved with."
        ) from error


def _trained_rules(meta: Meta) -> dict[str, MeshAxes]:
    """Returns the rules that a checkpoint's model trained by; 0.1.0 did not keep them.

    Axes that were named later lie as in the `2d` table.
    """
    stored = TABLES["2d"] | meta.get("rules", {})
    return {name: tuple(to) if isinstance(to, list) else to for name, to in stored.items()}
