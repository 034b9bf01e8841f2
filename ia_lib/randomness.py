"""The random numbers that everything in the kit is drawn with: the same for the same key, on every machine."""

import hashlib
import random

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator(*key: object) -> random.Random:
    """A random generator that depends on `key` alone, for example (seed, epoch, sample). Only its `random()` is used in
    the kit: Python promises that sequence for every later version and every machine."""
    return random.Random("/".join(map(str, key)))


def pick(rng, items):
    """One of `items`, uniformly."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, n: int) -> list[int]:
    """The numbers 0 .. n - 1 in an order drawn uniformly."""
    return sorted(range(n), key=take(rng, n).__getitem__)


def weighted(u: float, shares):
    """The item whose share holds `u`, of pairs (item, share) laid end to end from 0; behind them all the last one."""
    for item, share in shares:
        u -= share
        if u < 0:
            return item
    return item


def take(rng, n: int) -> list[float]:
    """The next `n` numbers, at once if the generator can."""
    return rng.take(n) if hasattr(rng, "take") else [rng.random() for _ in range(n)]


def uniforms(key: tuple, samples: np.ndarray, count: int) -> np.ndarray:
    """[samples, count] numbers in [0, 1): a row depends on `key` and its sample alone, whatever stands beside it. The
    SplitMix64 generator, started again for every sample. It is integer arithmetic, the same on every machine, and makes
    a block of samples at once, where a generator object per sample would cost more than the rest of its work."""
    with np.errstate(over="ignore"):
        start = _mixed(_seed(key) ^ _mixed(samples.astype(np.uint64) * _GOLDEN + _GOLDEN))
        return (_mixed(start[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def permuted(key: tuple, positions: np.ndarray, n: int) -> np.ndarray:
    """Where a permutation of 0 .. n - 1 that depends on `key` sends `positions`, without ever holding it in memory. A
    Feistel network of eight rounds over the next even power of two; what falls outside goes through it again."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    with np.errstate(over="ignore"):
        while outside.any():
            left, right = values[outside] >> shift, values[outside] & mask
            for number in range(8):
                left, right = right, left ^ (_mixed(right + _seed((*key, number))) & mask)
            values[outside] = left << shift | right
            outside = values >= n
    return values.astype(np.int64)


def _mixed(values):
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _seed(key: tuple) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "little"))
