"""All names of the configuration in force: asked in time, and kept from the last good answer.

Lives here: when each is asked again. Never here: the asking (`lbd.names.lookup`), what an answer
makes of the backends (`lbd.names.known`), bringing them into force (`lbd.supervisor`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from config.names import Resolver
from config.schema import Backend, Config, Service
from lbd.names.known import Known
from lbd.names.lookup import Lookup, LookupFailed

log = logging.getLogger(__name__)

MIN_S: Final = 1.0
AGAIN_S: Final = 5.0
"""After a failure, if the name is not to be asked sooner anyway."""


class _Key(NamedTuple):
    """What makes a name another one; `backend` with all it hands on to what is found."""

    service: str
    backend: Backend


class Names:
    """`on_change()` is awaited when a name stands for other addresses than before; where it
    returns False, they could not be taken over yet, and it is called again later.

    lookups_total, failures_total: by service, questions asked and those without a usable answer.
    """

    def __init__(self, on_change: Callable[[], Awaitable[bool]]) -> None:
        self._on_change = on_change
        self._lookup = Lookup(Resolver())
        self._known: dict[_Key, Known] = {}
        self._due_s: dict[_Key, float] = {}
        self._watches: dict[_Key, asyncio.Task[None]] = {}
        self.lookups_total: Counter[str] = Counter()
        self.failures_total: Counter[str] = Counter()

    async def prepare(self, config: Config) -> None:
        """Ask for all names of `config` that are not known yet. Raises OSError naming one that has
        no answer: then nothing was known of it that could be kept."""
        missing = [key for key in _keys(config) if key not in self._known]
        self._lookup = Lookup(config.resolver)
        made = await asyncio.gather(*(self._first(key, config) for key in missing))
        self._known.update(zip(missing, made, strict=True))

    def expanded(self, service: Service) -> Service:
        """With every name replaced by the backends that it stands for, all of them prepared."""
        if not any(backend.dns for backend in service.backends):
            return service
        backends: list[Backend] = []
        for backend in service.backends:
            known = self._known.get(_Key(service.name, backend)) if backend.dns else None
            backends += known.backends if known is not None else (backend,)
        return service.model_copy(update={"backends": tuple(backends)})

    def follow(self, config: Config) -> None:
        """`config` is in force: ask for its names again in time, forget all others."""
        wanted = set(_keys(config))
        for key in [key for key in self._known if key not in wanted]:
            del self._known[key]
            if key in self._watches:
                self._watches.pop(key).cancel()
        for key in wanted - set(self._watches):
            self._watches[key] = asyncio.create_task(self._watch(key))

    async def close(self) -> None:
        for task in self._watches.values():
            task.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _first(self, key: _Key, config: Config) -> Known:
        (service,) = (one for one in config.services if one.name == key.service)
        others = {one.name for one in service.backends if one is not key.backend}
        former = (
            known
            for other, known in self._known.items()
            if (other.service, other.backend.name) == (key.service, key.backend.name)
        )
        known = Known(key.backend, others - {key.backend.name}, next(former, None))
        try:
            await self._ask(key, known)
        except LookupFailed as error:
            raise OSError(str(error)) from None
        return known

    async def _ask(self, key: _Key, known: Known) -> bool:
        """Whether it changed. Raises LookupFailed, and what is known stays."""
        assert key.backend.dns is not None
        every_s = key.backend.dns.every_s
        self.lookups_total[key.service] += 1
        self._due_s[key] = min(every_s, AGAIN_S)
        try:
            answer = await self._lookup.ask(key.backend.address, key.backend.dns)
        except LookupFailed:
            self.failures_total[key.service] += 1
            raise
        self._due_s[key] = max(MIN_S, min(answer.ttl_s, every_s))
        return known.take(answer)

    async def _watch(self, key: _Key) -> None:
        known = self._known[key]
        failing = changed = False
        while True:
            await asyncio.sleep(self._due_s[key])
            try:
                changed = await self._ask(key, known) or changed
                failing = False
                if changed:
                    told = ", ".join(str(backend.address) for backend in known.backends)
                    log.info("service %s: %s is %s", key.service, key.backend.address.host, told)
                    changed = not await self._on_change()
            except LookupFailed as error:
                if not failing:
                    log.warning("service %s: %s; the last addresses stay", key.service, error)
                failing = True
            except Exception:
                # A fault of ours must not leave the name unwatched.
                log.critical("%s cannot be looked up", key.backend.address.host, exc_info=True)


def _keys(config: Config) -> list[_Key]:
    return [
        _Key(service.name, backend)
        for service in config.services
        for backend in service.backends
        if backend.dns is not None
    ]
