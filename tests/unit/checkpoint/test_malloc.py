import ctypes
import sys

import forked
import pytest

from palmscale.checkpoint.malloc import return_large_buffers

# How many buffers of 4 MB are mapped, and so given back when they are freed, once glibc has seen
# one of 8 MB being freed.
MAPPED = """
import ctypes, sys
from palmscale.checkpoint.malloc import return_large_buffers
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")]
    _fields_ += [(f"other_{index}", ctypes.c_size_t) for index in range(6)]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], Mallinfo2
if "ask" in sys.argv:
    return_large_buffers()
libc.free(libc.malloc(8 << 20))
before = libc.mallinfo2().hblks
libc.malloc(4 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize(("asked", "mapped"), [(["ask"], 1), ([], 0)])
def test_large_buffers_go_back_to_the_system_when_they_are_freed(asked, mapped):
    command = [sys.executable, "-c", MAPPED, *asked]
    done = forked.run(command, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (str(mapped), "")


@pytest.mark.parametrize("error", [AttributeError, OSError])
def test_another_c_library_is_let_be(error, monkeypatch):
    asked = []

    def library(name):
        asked.append(name)
        raise error(name)

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert return_large_buffers() is None
    assert asked == [None]
