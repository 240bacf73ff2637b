"""Which service a server's name stands for.

Lives here: the look-up. Never here: where the name comes from (`lbd.wire.client_hello`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Router(Generic[T]):
    """An exact name goes before a wildcard, of wildcards the longest; what has no name comes last.

    `*.example.org` stands for all names below, at any depth, not for `example.org` itself.
    """

    def __init__(self, routes: Iterable[tuple[Sequence[str], T]]) -> None:
        self._exact: dict[str, T] = {}
        self._below: dict[str, T] = {}
        self._default: T | None = None
        for names, target in routes:
            if not names:
                self._default = target
            for name in names:
                known = self._below if name.startswith("*.") else self._exact
                known[name.removeprefix("*.")] = target

    def find(self, name: str | None) -> T | None:
        """None where nothing stands for it."""
        if name is None:
            return self._default
        if name in self._exact:
            return self._exact[name]
        _, _, rest = name.partition(".")
        while rest:
            if rest in self._below:
                return self._below[rest]
            _, _, rest = rest.partition(".")
        return self._default
