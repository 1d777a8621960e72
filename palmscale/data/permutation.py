"""A shuffled order that is computed, not stored: any position takes constant time."""

import hashlib

import numpy as np

_ROUNDS = 8


def permute(index: np.ndarray, *, size: int, key: str) -> np.ndarray:
    """Returns the images of the indices under the permutation of range(size) given by `key`.

    A Feistel network over the smallest domain 4^h >= size, with cycle walking: values outside the
    range pass again until they are inside, fewer than 4 times on average. The result is a pure
    function of (index, size, key) on any machine and with any NumPy.

    Raises:
        IndexError: an index is out of range.
    """
    place = np.asarray(index, dtype=np.uint64)
    if place.size and int(place.max()) >= size:
        raise IndexError(f"index {int(place.max())} is outside a permutation of {size}")
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    round_keys = np.frombuffer(hashlib.sha512(key.encode()).digest(), dtype="<u8")[:_ROUNDS]
    place = _feistel(place, round_keys, half_bits)
    outside = place >= size
    while outside.any():
        place[outside] = _feistel(place[outside], round_keys, half_bits)
        outside = place >= size
    return place.astype(np.int64)


def _feistel(place: np.ndarray, round_keys: np.ndarray, half_bits: int) -> np.ndarray:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = place >> shift, place & mask
    for round_key in round_keys:
        left, right = right, left ^ (mix_bits(right ^ round_key) & mask)
    return (left << shift) | right


def mix_bits(word: np.ndarray) -> np.ndarray:
    """Applies a bijection of uint64 in which each input bit affects all output bits.

    This is the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
