"""An engine without a model: the interface of `palmscale.infer.engine.Engine`, in milliseconds.

It continues each prompt with the letters of `TEXT`, one a step, so that tests know what comes.
"""

import collections
import itertools
import threading

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.infer.request import Output, Token
from palmscale.serve.served import Served

TEXT = "naïve → text. "
VOCABULARY = ByteVocabulary()
IDS = VOCABULARY.encode(TEXT).tolist()


class FakeEngine:
    """Answers as `Engine` does.

    Args:
        slots: sequences that advance together.
        context_length: of each.
        gate: steps wait while it is cleared; None: they never wait.
        gated_from: the first step that waits.
        fails_at: raises in this step; None: never.
    """

    def __init__(self, *, slots=4, context_length=512, gate=None, gated_from=0, fails_at=None):
        self.slots, self.context_length = slots, context_length
        self._gate, self._gated_from, self._fails_at = gate, gated_from, fails_at
        self._ids, self._steps = itertools.count(), itertools.count()
        self._queued, self._running = collections.OrderedDict(), {}
        self.submitted = []
        self.owner = None

    active = property(lambda self: len(self._running))
    queued = property(lambda self: len(self._queued))
    free_slots = property(lambda self: self.slots - len(self._running))
    busy = property(lambda self: bool(self._running or self._queued))

    def submit(self, request):
        self._check_thread()
        if len(request.prompt) + request.max_tokens > self.context_length:
            raise UserError(f"max_tokens={request.max_tokens} is too many.")
        request_id = next(self._ids)
        self._queued[request_id] = [request, 0]
        self.submitted.append(request)
        return request_id

    def cancel(self, request_id):
        self._check_thread()
        self._queued.pop(request_id, None)
        self._running.pop(request_id, None)

    def step(self):
        self._check_thread()
        number = next(self._steps)
        if self._gate is not None and number >= self._gated_from:
            self._gate.wait(60)
        if number == self._fails_at:
            raise RuntimeError("the device is on fire")
        while self._queued and self.free_slots:
            request_id, entry = self._queued.popitem(last=False)
            self._running[request_id] = entry
        return [self._advance(request_id) for request_id in list(self._running)]

    def _advance(self, request_id):
        request, drawn = self._running[request_id]
        prompt = None
        if drawn == 0 and request.score_from is not None:
            prompt = [_token(request, int(i)) for i in request.prompt[request.score_from :]]
        if drawn >= request.max_tokens:
            del self._running[request_id]
            return Output(request_id=request_id, prompt=prompt, finished="length")
        token = _token(request, IDS[drawn % len(IDS)])
        self._running[request_id][1] = drawn = drawn + 1
        finished = "length" if drawn == request.max_tokens else None
        if finished:
            del self._running[request_id]
        return Output(request_id=request_id, tokens=[token], prompt=prompt, finished=finished)

    def _check_thread(self):
        self.owner = self.owner or threading.get_ident()
        assert self.owner == threading.get_ident(), "an engine has one owner"


def _token(request, token_id):
    if request.top_log_probabilities is None:
        return Token(id=token_id)
    top = [((token_id + rank) % 256 + 3, -1.0 - rank) for rank in range(8)]
    return Token(id=token_id, log_probability=-1.5, top=top[: request.top_log_probabilities])


def served(engine=None, **fields):
    """A Served of a fake engine."""
    num_tokens = fields.pop("num_tokens", VOCABULARY.size)
    engine = engine or FakeEngine(**fields)
    return Served(
        engine=engine,
        vocabulary=VOCABULARY,
        name="tiny",
        num_tokens=num_tokens,
    )
