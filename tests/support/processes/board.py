"""A stand-in for JAX's coordination service: one dictionary that the processes of a test share."""

import threading

from palmscale.cluster.agree import Peers


class Board:
    """The key-value store, with the methods of its client that the cluster package uses."""

    def __init__(self):
        self.values, self._changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self._changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.values[key]

    def key_value_dir_get(self, key):
        found = [(name, value) for name, value in self.values.items() if name.startswith(key)]
        if not found:
            raise RuntimeError("NOT_FOUND")
        return found

    def key_value_delete(self, key):
        with self._changed:
            for name in [name for name in self.values if name.startswith(key)]:
                del self.values[name]


def peers(count, board=None):
    """The `Peers` of every process of a job, on hosts a, b, ..."""
    board = board or Board()
    made = []
    for index in range(count):
        own = Peers(["a"], index=0)
        own.__init__(["a"], index=0)
        own.hosts, own.index, own.count = [chr(97 + i) for i in range(count)], index, count
        own._client = board
        made.append(own)
    return made
