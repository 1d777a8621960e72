"""The engine: requests in, tokens out; many sequences at once, each by a slot of one cache.

A step computes at most one chunk of prompts and one token of every sequence, so a long prompt
delays the others' tokens by one chunk at most. Accelerators work on a step while the host reads the
previous one's tokens.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.infer import programs
from palmscale.infer.cache import empty_cache
from palmscale.infer.draw import Drawn
from palmscale.infer.lookup import foreseen
from palmscale.infer.partition import entered, phase
from palmscale.infer.programs import Slots, layers_apart
from palmscale.infer.request import Output, Request, Token
from palmscale.infer.running import Running
from palmscale.infer.sampling import allowed_of
from palmscale.infer.slot_rows import empty_rows, with_row
from palmscale.infer.slot_table import SlotTable
from palmscale.infer.staging import Staging
from palmscale.model import interface
from palmscale.partition.layout import DeviceLayout


class _InFlight(NamedTuple):
    """A step that the devices compute: whose tokens, by slot, and where they will be."""

    sequences: Mapping[int, Running]
    drawn: Drawn


class Engine:
    """Continues and scores sequences with one model.

    One thread uses it. With several processes, each makes the same calls in the same order.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model, in any form; see `palmscale.infer.weights.decoding_form`.
        layout: where the variables lie, if on several devices, with the rules of one sequence, as
            `palmscale.infer.partition.generation_layout` gives it; None: on one.
        slots: sequences that are continued at once.
        context_length: tokens of a prompt and its continuation together, at most.
        prefill_chunk: tokens of prompts that one step computes at most; a power of two, or taken
            down to one.
        reuse_prefixes: whether a prompt takes what another with the same beginning has cached.
        speculate_tokens: tokens that a step may foresee from the sequence's own text, while all
            sequences are greedy; 0: none. The text is the same, and sooner there if it repeats.

    Raises:
        UserError: the model cannot generate, or a size is out of range.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        variables: Any,
        layout: DeviceLayout | None = None,
        slots: int = 8,
        context_length: int = 2048,
        prefill_chunk: int = 128,
        reuse_prefixes: bool = True,
        speculate_tokens: int = 0,
    ) -> None:
        for name, value, least in (
            ("slots", slots, 1),
            ("context_length", context_length, 2),
            ("prefill_chunk", prefill_chunk, 1),
            ("speculate_tokens", speculate_tokens, 0),
        ):
            if value < least:
                raise UserError(f"{name}={value} must be at least {least}.")
        spec = interface.cache_spec(model)
        self.slots, self.context_length = slots, context_length
        self._model, self._variables = model, variables
        self._layout = (
            None if layout is None else phase(model, layout, sequences=slots, new_tokens=1)[0]
        )
        self._reuses, self._speculated, self._ragged = reuse_prefixes, speculate_tokens, spec.ragged
        # Where a write past the end of a cache is clamped, an idle slot overwrites its last tokens.
        spare = 0 if spec.ragged else 1 + speculate_tokens
        self._table = SlotTable(slots, most_kept=context_length - spare)
        apart = layers_apart(model, variables)
        with entered(self._layout):
            self._size = programs.logits_size(model, variables)
            cache = jax.jit(
                lambda: empty_cache(spec, batch=slots, positions=context_length, apart=apart)
            )()
            token_B = np.zeros(slots, np.int32)
            self._state = Slots(cache=cache, token_B=token_B, rows=empty_rows(slots))
        self._staging = Staging(
            model, variables, context_length, chunk=prefill_chunk, apart=apart, layout=layout
        )
        # A CPU's steps are long beside what the host does between them, and a request that comes
        # would wait for one more. Other devices would stand still meanwhile.
        (device, *_) = jax.tree.leaves(cache)[0].sharding.device_set
        self._ahead = 0 if device.platform == "cpu" else 1
        self._next_id = 0
        self._queue: collections.deque[Running] = collections.deque()
        self._staged: Running | None = None
        self._scored: list[Running] = []  # whose prompts are computed and not yet told
        self._in_flight: collections.deque[_InFlight] = collections.deque()

    @property
    def active(self) -> int:
        """Sequences that have a slot or whose prompt is being computed."""
        return len(self._table.running) + (self._staged is not None)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def free_slots(self) -> int:
        """Slots without a sequence."""
        return self._table.free

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        under_way = (self._queue, self._table.running, self._scored, self._in_flight)
        return self._staged is not None or any(under_way)

    def submit(self, request: Request) -> int:
        """Adds a request to the queue, and returns its id.

        Raises:
            UserError: see `check`.
        """
        self.check(request)
        running = Running(self._next_id, request)
        self._next_id += 1
        self._queue.append(running)
        return running.id

    def check(self, request: Request) -> None:
        """Checks a request.

        Raises:
            UserError: it does not fit the context, names an id that the model does not have, or
                asks for too many log-probabilities.
        """
        length = len(request.prompt) + request.max_tokens
        if length > self.context_length:
            raise UserError(
                f"the prompt has {len(request.prompt)} tokens and max_tokens={request.max_tokens}:"
                f" together {length}, and context_length is {self.context_length}; shorten one."
            )
        size = interface.num_tokens(self._model) or self._size
        named = {"the prompt": request.prompt}
        named["logit_bias"] = [token_id for token_id, _ in request.sampling.logit_bias]
        for name, ids in named.items():
            if wrong := [int(i) for i in ids if not 0 <= i < size][:1]:
                raise UserError(f"{name} has the token id {wrong[0]}; ids are 0 to {size - 1}.")
        most = programs.most_top(size)
        if not 0 <= (request.top_log_probabilities or 0) <= most:
            raise UserError(
                f"top_log_probabilities={request.top_log_probabilities} must be 0 to {most}."
            )

    def cancel(self, request_id: int) -> None:
        """Ends a request, if it is not over; its slot is free at once, and no output follows."""
        everyone = (*self._queue, self._staged, *self._table.running.values(), *self._scored)
        for running in everyone:
            if running is None or running.id != request_id:
                continue
            running.is_over = True
            self._table.release(running)
            self._queue = collections.deque(r for r in self._queue if r is not running)
            self._scored = [r for r in self._scored if r is not running]
            self._staged = None if self._staged is running else self._staged

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Output]]:
        """Yields (the request's number, an output) until all are answered.

        Requests are taken as slots become free: an endless iterable is fine.
        """
        source, numbers = enumerate(requests), {}
        exhausted = False
        while not exhausted or numbers:
            while not exhausted and self.queued < self.slots:
                number, request = next(source, (-1, None))
                if request is None:
                    exhausted = True
                else:
                    numbers[self.submit(request)] = number
            for output in self.step():
                number = numbers[output.request_id]
                if output.finished:
                    del numbers[output.request_id]
                yield number, output

    def step(self) -> list[Output]:
        """Computes a chunk of prompts and a token of each sequence; returns what is known by now.

        Where the devices are no CPU, a token is told one step late, while they compute the next.
        """
        outputs: list[Output] = []
        with entered(self._layout):
            self._compute_prompts()
            if self._needs_last_tokens():
                self._read(outputs, leave=0)
            sequences = self._table.wanting()
            if sequences and self._may_speculate():
                self._compute_foreseen(sequences, outputs)
            elif sequences:
                self._compute_tokens(sequences)
            self._tell_scores(outputs)
            self._read(outputs, leave=self._ahead if self._table.wanting() else 0)
        return outputs

    def _compute_prompts(self) -> None:
        """Computes up to a chunk of the waiting prompts, and gives the finished ones a slot."""
        budget = self._staging.chunk
        while budget > 0:
            if self._staged is None:
                if not self._queue or (self._queue[0].request.max_tokens and not self.free_slots):
                    return
                self._staged = self._queue.popleft()
                self._staged.reused_tokens = self._begin(self._staged.request)
            running = self._staged
            budget -= self._staging.advance(running.request, running.scores)
            if self._staging.is_done(running.request):
                self._staged = None
                self._place(running)

    def _begin(self, request: Request) -> int:
        """Begins a prompt with the longest beginning that is cached, and returns its tokens."""
        if not self._reuses:
            return self._staging.begin(request, [], None)
        slot = self._table.longest(lambda cached: self._staging.common(request, cached))
        copy = lambda: programs.take(self._state.cache, np.int32(slot))  # noqa: E731
        return self._staging.begin(request, self._table.cached[slot], copy)

    def _place(self, running: Running) -> None:
        """Moves a computed prompt into a free slot, if it is to be continued."""
        request = running.request
        if request.score_from is not None or not request.max_tokens:
            self._scored.append(running)
        if request.max_tokens:
            slot = self._table.occupy(running)
            rows = with_row(
                self._state.rows, slot, request.sampling, request.seed, request.prompt, self._size
            )
            self._state = programs.insert(
                self._state.replace(rows=rows),
                self._staging.cache,
                np.int32(slot),
                np.int32(len(request.prompt) - 1),
                np.int32(request.prompt[-1]),
            )

    def _needs_last_tokens(self) -> bool:
        """Whether the next step depends on tokens that the host has not read."""
        guided = any(r.request.guide is not None for r in self._table.running.values())
        return guided or self._may_speculate()

    def _may_speculate(self) -> bool:
        running = self._table.running.values()
        if not self._speculated or not all(r.is_plain for r in running):
            return False
        room = self.context_length - max(map(len, self._table.cached))
        return self._ragged or room > 1 + self._speculated

    def _compute_tokens(self, sequences: Mapping[int, Running]) -> None:
        """Has the devices compute a token of each sequence."""
        requests = [running.request for running in sequences.values()]
        top = max(request.top_log_probabilities or 0 for request in requests)
        rows = self._state.rows.replace(allowed_BV=self._allowed(sequences))
        self._state, drawn = programs.decode(
            self._model,
            self._variables,
            self._state.replace(rows=rows),
            self._active(sequences),
            filters=any(request.sampling.filters for request in requests),
            top=programs.returned_top(top, self._size),
        )
        for running in sequences.values():
            running.asked_tokens += 1
        self._in_flight.append(_InFlight(sequences, drawn))

    def _compute_foreseen(self, sequences: Mapping[int, Running], outputs: list[Output]) -> None:
        """Computes the tokens that the sequences' own text foresees, and one more of each."""
        draft_BL = np.full((self.slots, self._speculated), -1, np.int32)
        for slot, running in sequences.items():
            text = [*map(int, running.request.prompt), *running.tokens]
            draft = foreseen(text, self._speculated)
            draft_BL[slot, : len(draft)] = draft
        self._state, greedy_BL, count_B = programs.verify(
            self._model, self._variables, self._state, self._active(sequences), draft_BL
        )
        greedy_BL, count_B = jax.device_get((greedy_BL, count_B))
        for slot, running in sequences.items():
            tokens = [Token(id=int(i)) for i in greedy_BL[slot, : count_B[slot]]]
            self._tell(slot, running, tokens, outputs)
            running.asked_tokens = len(running.tokens)

    def _active(self, sequences: Mapping[int, Running]) -> np.ndarray:
        active_B = np.zeros(self.slots, bool)
        active_B[list(sequences)] = True
        return active_B

    def _allowed(self, sequences: Mapping[int, Running]) -> np.ndarray | None:
        """Returns the ids that may be drawn, bool [B, V]; None: all."""
        guided = {s: r for s, r in sequences.items() if r.request.guide or r.withheld}
        if not guided:
            return None
        allowed_BV = np.ones((self.slots, self._size), bool)
        for slot, running in guided.items():
            guide = running.request.guide
            allowed_V = guide.allowed() if guide else allowed_BV[slot]
            allowed_BV[slot] = allowed_of(allowed_V, size=self._size, withheld=running.withheld)
        return allowed_BV

    def _tell_scores(self, outputs: list[Output]) -> None:
        """Waits for the scores of computed prompts, and tells them."""
        for running in self._scored:
            running.is_over = not running.request.max_tokens
            prompt = self._staging.scored(running.request, running.scores)
            finished = "length" if running.is_over else None
            outputs.append(running.output(prompt=prompt, finished=finished))
        self._scored = []

    def _read(self, outputs: list[Output], *, leave: int) -> None:
        """Waits for the steps in flight but the last `leave`, and tells what they drew."""
        while len(self._in_flight) > leave:
            sequences, drawn = self._in_flight.popleft()
            drawn = jax.device_get(drawn)
            for slot, running in sequences.items():
                if not running.is_over:
                    token = _token(drawn, slot, running.request.top_log_probabilities)
                    self._tell(slot, running, [token], outputs)

    def _tell(
        self, slot: int, running: Running, tokens: list[Token], outputs: list[Output]
    ) -> None:
        inputs = [running.last_token(), *(token.id for token in tokens)]
        output = running.tell(tokens)
        self._table.cached[slot].extend(inputs[: len(output.tokens)])
        outputs.append(output)
        if running.is_over:
            self._table.release(running)


def _token(drawn: Drawn, slot: int, top: int | None) -> Token:
    """Returns a slot's token, with log-probabilities unless `top` is None."""
    token_id = int(drawn.token_B[slot])
    if top is None:
        return Token(id=token_id)
    ids_K, log_p_K = drawn.top_ids_BK[slot, :top], drawn.top_log_probabilities_BK[slot, :top]
    return Token(
        id=token_id,
        log_probability=float(drawn.log_probability_B[slot]),
        top=list(zip(ids_K.tolist(), log_p_K.tolist(), strict=True)),
    )
