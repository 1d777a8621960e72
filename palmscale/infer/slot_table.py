"""Which sequence has which slot of an engine's cache, and what a slot still holds."""

import collections
from collections.abc import Callable

from palmscale.infer.running import Running


class SlotTable:
    """The slots of an engine.

    Args:
        slots: how many there are.
        most_kept: tokens that a slot keeps once its sequence is over.
    """

    def __init__(self, slots: int, *, most_kept: int) -> None:
        self.running: dict[int, Running] = {}  # by slot
        self.cached: list[list[int]] = [[] for _ in range(slots)]  # tokens, by slot
        self._free = collections.deque(range(slots))
        self._most_kept = most_kept

    @property
    def free(self) -> int:
        """Slots without a sequence."""
        return len(self._free)

    def occupy(self, running: Running) -> int:
        """Gives a sequence, whose prompt but its last token is cached, the longest free slot."""
        slot = self._free.popleft()
        self.running[slot] = running
        self.cached[slot] = [int(i) for i in running.request.prompt[:-1]]
        return slot

    def release(self, running: Running) -> None:
        """Frees the slot of a sequence, if it has one; what it cached may be reused."""
        for slot, other in list(self.running.items()):
            if other is running:
                del self.running[slot]
                del self.cached[slot][self._most_kept :]
                self._free.append(slot)

    def wanting(self) -> dict[int, Running]:
        """Returns the sequences that want more tokens, by slot."""
        return {slot: running for slot, running in self.running.items() if running.wants_tokens}

    def longest(self, common: Callable[[list[int]], int]) -> int:
        """Returns the slot whose cached tokens have the most in common with a prompt."""
        return max(range(len(self.cached)), key=lambda slot: common(self.cached[slot]))
