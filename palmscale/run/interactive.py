"""A conversation with a base model: a prompt, its continuation, and the next prompt."""

import contextlib
import dataclasses
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest, continued
from palmscale.infer.engine import Engine
from palmscale.infer.request import sample_seed


def interact(
    engine: Engine,
    vocabulary: Vocabulary,
    defaults: TextRequest,
    *,
    read: Callable[[], str],
    write: Callable[[str], None],
    complain: Callable[[str], None],
) -> None:
    """Continues prompts until there are no more; Ctrl-C ends a text, and the next prompt follows.

    Args:
        engine: continues them, one at a time.
        vocabulary: of its tokens.
        defaults: the fields of all requests but the prompt. Each prompt has a seed of its own.
        read: returns the next prompt; EOFError: there are no more.
        write: writes a prompt or a piece of text.
        complain: says why a prompt cannot be continued.
    """
    for number in itertools.count():
        try:
            prompt = read()
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            continue
        request = dataclasses.replace(
            defaults, prompt=prompt, seed=sample_seed(defaults.seed, number)
        )
        with (
            interrupts() as interrupted,
            contextlib.closing(continued(engine, vocabulary, [request])) as pieces,
        ):
            try:
                write(prompt)
                for _, piece in pieces:
                    write(piece.text)
                    if interrupted.is_set():
                        break
            except UserError as error:
                complain(str(error))
        write("\n")


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Has Ctrl-C set an event, so that a step of the engine is finished; the second one raises."""
    interrupted = threading.Event()

    def obey(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, obey)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
