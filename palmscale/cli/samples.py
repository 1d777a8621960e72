"""Text from a model: the sample at the end of training, and `palmscale generate`."""

import argparse
import collections
import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palmscale.checkpoint.fingerprint import named_leaves
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli.job import joined
from palmscale.cli.run import Run, rebuild_model
from palmscale.data.vocab import Vocabulary, load_vocabulary
from palmscale.errors import UserError
from palmscale.infer.generate import generate as generate_tokens
from palmscale.infer.partition import parameter_bytes, spread
from palmscale.infer.sampling import Sampling
from palmscale.observe import log
from palmscale.partition.shardings import unbox
from palmscale.storage.place import on_disk, place
from palmscale.train.state import abstract_params

# Larger models do not fit on the one device that writes the sample beside the training state.
_SAMPLED_BYTES = 2 << 30


def say_sample(run: Run, vocabulary: Vocabulary, params: Any) -> None:
    """Prints what a just trained model makes of the run's prompt, if it asks for a sample."""
    prompt = run.reporting.sample_prompt
    if prompt is None or not hasattr(run.model, "extend"):
        return
    if sum(leaf.nbytes for leaf in jax.tree.leaves(params)) > _SAMPLED_BYTES:
        return
    tokens = generate_tokens(
        model=run.model,
        params=jax.device_put(params, jax.local_devices()[0]),
        prompt=encoded(vocabulary, prompt),
        sampling=Sampling(temperature=0.7),
        seed=run.seed,
        max_tokens=run.reporting.sample_tokens,
    )
    ids = [int(token_B[0]) for token_B in tokens]
    log.say(f"A sample:\n{prompt}{vocabulary.decode(until_end(ids, vocabulary))}\n")


def generate(args: argparse.Namespace) -> None:
    """`palmscale generate`: writes text to stdout, token by token for one sample."""
    log.set_up()
    workdir = place(args.workdir)
    prompt = args.prompt if args.prompt_file is None else _read(args.prompt_file)
    sampling = Sampling(
        temperature=0.0 if args.greedy else args.temperature, top_k=args.top_k, top_p=args.top_p
    )
    which = None if args.checkpoint == "latest" else args.checkpoint
    with (
        joined(args, simulated_devices=None) as job,
        CheckpointStore(workdir / "checkpoints", peers=job.peers) as store,
        contextlib.ExitStack() as layouts,
    ):
        meta = store.read_meta(which if isinstance(which, int) else None)
        if meta is None:
            raise UserError(f"there is no checkpoint in {workdir}; train first, or name another.")
        model = rebuild_model(meta["identity"]["model"])
        boxed = abstract_params(model)
        shapes = unbox(boxed)
        if job.peers.count > 1 or parameter_bytes(shapes) > _SAMPLED_BYTES:
            shapes = layouts.enter_context(spread(boxed, meta["mesh"]))
        snapshot = store.restore(which, abstract_params=shapes)
        with on_disk(workdir / "vocabulary") as folder:
            vocabulary = load_vocabulary(meta["vocabulary"], folder)
        tokens = generate_tokens(
            model=model,
            params=snapshot.params,
            prompt=encoded(vocabulary, prompt),
            sampling=sampling,
            seed=args.seed,
            num_samples=args.num_samples,
            max_tokens=args.max_tokens,
        )
        if args.num_samples == 1:
            tokens = _before_end(tokens, vocabulary)  # on every process: at the same token
        if not job.leads:
            collections.deque(tokens, maxlen=0)
        elif args.num_samples == 1:
            _stream_text(prompt, tokens, vocabulary)
        else:
            _print_samples(prompt, tokens, vocabulary)


def _print_samples(prompt: str, tokens: Iterator[np.ndarray], vocabulary: Vocabulary) -> None:
    ids_BL = np.stack(list(tokens), axis=1)
    for number, ids_L in enumerate(ids_BL):
        text = vocabulary.decode(until_end(ids_L.tolist(), vocabulary))
        print(f"--- sample {number}\n{prompt}{text}")


def stored_params(store: CheckpointStore) -> dict[str, Any]:
    """Returns the newest parameters of a run, by their paths, on one device."""
    meta = store.read_meta()
    model = rebuild_model(meta["identity"]["model"])
    return named_leaves(store.restore(abstract_params=unbox(abstract_params(model))).params)


def _before_end(tokens: Iterator[np.ndarray], vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    return itertools.takewhile(lambda token_B: token_B[0] != vocabulary.eod_id, tokens)


def _stream_text(prompt: str, tokens: Any, vocabulary: Vocabulary) -> None:
    """Prints the text as it grows; what is still half a character waits for its other bytes."""
    sys.stdout.write(prompt)
    ids: list[int] = []
    shown = 0
    for token_B in tokens:
        ids.append(int(token_B[0]))
        text = vocabulary.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)
    sys.stdout.write(vocabulary.decode(ids)[shown:] + "\n")


def encoded(vocabulary: Vocabulary, prompt: str) -> np.ndarray:
    """Returns the prompt's ids behind the bos id, as rows begin in training."""
    return np.concatenate([[vocabulary.bos_id], vocabulary.encode(prompt)]).astype(np.int32)


def until_end(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Returns the ids before the first end of document."""
    return ids[: ids.index(vocabulary.eod_id)] if vocabulary.eod_id in ids else ids


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise UserError(f"cannot read --prompt_file={path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt_file={path} is not UTF-8 at byte {error.start}; save it as UTF-8."
        ) from None
