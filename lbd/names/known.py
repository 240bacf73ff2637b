"""The addresses of one name as backends: which, under which names, with which weights.

Lives here: an answer's way to backends, pure. Never here: asking (`lbd.names.lookup`).
An address keeps its name for as long as it is in the answers, wherever it stands in them: its
backend keeps its slot, its flows and its averages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count

from config.address import Address
from config.schema import Backend


@dataclass(frozen=True)
class Found:
    """One address; share: its weight relative to the heaviest of the answer, positive."""

    address: Address
    share: float = 1.0


@dataclass(frozen=True)
class Answer:
    """At least one address, and for how long that holds. whole: nothing it depends on was left
    unanswered; where not, there may be more addresses than these."""

    found: Sequence[Found]
    ttl_s: float
    whole: bool = True


class Known:
    """Of one backend of the configuration; taken: names of the service's other backends.

    former: of the same backend as it was configured before, whose addresses keep their names.
    """

    def __init__(
        self, backend: Backend, taken: Collection[str] = (), former: Known | None = None
    ) -> None:
        self._backend = backend
        self._taken = frozenset(taken)
        self._names: dict[Address, str] = dict(former._names) if former is not None else {}
        self._share: dict[Address, float] = dict(former._share) if former is not None else {}
        self.backends: tuple[Backend, ...] = ()

    def take(self, answer: Answer) -> bool:
        """True where it changed something. Beyond `dns.max`, who was there before goes first.

        An answer that is not whole adds addresses and takes none away.
        """
        assert self._backend.dns is not None
        share = {found.address: found.share for found in answer.found}
        if not answer.whole:
            share = {**self._share, **share}
        order = sorted(share, key=lambda address: (address not in self._names, str(address)))
        kept = order[: self._backend.dns.max]
        self._share = {address: share[address] for address in kept}
        self._names = {a: name for a, name in self._names.items() if a in kept}
        for address in kept:
            if address not in self._names:
                self._names[address] = self._free_name()
        before = self.backends
        self.backends = tuple(
            self._backend.model_copy(
                update={
                    "name": name,
                    "address": address,
                    "weight": self._backend.weight * share[address],
                    "dns": None,
                }
            )
            for address, name in sorted(self._names.items(), key=lambda item: item[1])
        )
        return self.backends != before

    def _free_name(self) -> str:
        """The backend's own name for the first, numbers behind it for the others."""
        base = self._backend.name
        used = {*self._names.values(), *self._taken}
        if base not in used:
            return base
        return next(name for n in count(2) if (name := f"{base}-{n}") not in used)
