"""Blocks into modules so that the heaviest module is as light as it can be."""

import math
from collections.abc import Callable

Cost = Callable[[int, int, int], int]


def balanced(cost: Cost, blocks: int, modules: int) -> list[int]:
    """The exact min-max partition of a row of blocks into K runs, by dynamic programming.

    min over 0 = s_0 < s_1 < … < s_K = M of max_k cost(k, s_{k−1}, s_k)

    Among the partitions with the least maximum it is one with the least Σ_k cost². Time O(K·M²).

    Args:
        cost: of module k, from 0, made of the blocks `first` to `stop` − 1, also from 0.
        blocks: M ≥ K.
        modules: K ≥ 1.

    Returns:
        Blocks per module.
    """
    assert 1 <= modules <= blocks
    limit = math.inf
    for even in (False, True):
        best: list[list[float]] = [[math.inf] * (blocks + 1) for _ in range(modules + 1)]
        cut = [[0] * (blocks + 1) for _ in range(modules + 1)]
        best[0][0] = 0
        for k in range(modules):
            for stop in range(k + 1, blocks - (modules - k - 1) + 1):
                for first in range(k, stop):
                    if best[k][first] == math.inf:
                        continue
                    own = cost(k, first, stop)
                    if own > limit:
                        continue
                    value = best[k][first] + own**2 if even else max(best[k][first], own)
                    if value < best[k + 1][stop]:
                        best[k + 1][stop], cut[k + 1][stop] = value, first
        if not even:
            limit = best[modules][blocks]
    counts, stop = [], blocks
    for k in range(modules, 0, -1):
        counts.append(stop - cut[k][stop])
        stop = cut[k][stop]
    return counts[::-1]
