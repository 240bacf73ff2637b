"""What belongs to a backend follows its identity from one step to the next.

Lives here: that one function. Never here: what is carried.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shm.snapshot import Words

Scalar = TypeVar("Scalar", bound=np.generic)


def carry(
    identity: Words, before: Words, values: NDArray[Scalar], missing: NDArray[Scalar]
) -> NDArray[Scalar]:
    """Rows of `values`, which belong to `before`, in the order of `identity`; else `missing`.

    values (M, …) for identities `before` (M,); missing (N, …); returns (N, …).
    """
    if identity.shape == before.shape and np.array_equal(identity, before):
        return values.copy()
    result = missing.copy()
    if before.size:
        order = np.argsort(before)
        at = order[np.minimum(np.searchsorted(before[order], identity), before.size - 1)]
        known = before[at] == identity
        result[known] = values[at[known]]
    return result
