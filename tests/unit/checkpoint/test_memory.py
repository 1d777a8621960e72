import ctypes

from palmscale.checkpoint.memory import return_large_buffers


def test_another_c_library_is_let_be(monkeypatch):
    return_large_buffers()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    return_large_buffers()
