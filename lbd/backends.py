"""The backends of one service as the region holds them: brought to what a configuration says.

Lives here: which slot is added, changed, given back, and when. Never here: the table itself
(`shm.region`), the states' meaning (`shm.states`).

A backend that is taken out gets no new flows, but keeps its slot until its flows are over or ended:
a slot that were used again meanwhile would count them for its next user.
"""

from __future__ import annotations

from time import monotonic_ns

from config.schema import Backend, Service
from lbd.health.monitor import Monitor
from shm.errors import RegionError
from shm.region import Region, SlotEntry
from shm.states import Flag, StateWriter
from shm.worker import flows_view


class Backends:
    """The supervisor's hand on one region's slots.

    shared_as: the name under which other balancers know the service.
    """

    def __init__(self, region: Region, service: Service) -> None:
        self.region = region
        self.states = StateWriter(region, service.health.panic_below)
        self.monitor = Monitor(region, self.states)
        self._flows = flows_view(region)
        self._leaving: dict[int, bool] = {}  # slot: workers know of it
        self._configured: dict[int, Backend] = {}  # identity: as it was taken into force
        self.shared_as = service.name
        self.apply(service, monotonic_ns())

    def present(self) -> dict[str, SlotEntry]:
        """By name; without those on their way out."""
        return {e.name: e for e in self.region.entries() if e.slot not in self._leaving}

    @property
    def leaving(self) -> list[int]:
        """Slots of those that were taken out and still have flows."""
        return list(self._leaving)

    def check(self, service: Service) -> None:
        """Raises RegionError where there is no room for what `service` adds."""
        present = self.present()
        added = sum(not _same(present.get(backend.name), backend) for backend in service.backends)
        free = self.region.layout.slots - len(self.region.active_slots())
        if added > free:
            raise RegionError(
                f"service {service.name}: {added} backends to add, but {free} free slots "
                f"({len(self._leaving)} wait for their last flows)"
            )

    def apply(self, service: Service, now_ns: int) -> None:
        """Take out, add, weigh, limit, order. To be called after `check`."""
        deadline_ns = now_ns + int(service.timeouts.drain_s * 1e9)
        present = self.present()
        wanted = {backend.name: backend for backend in service.backends}
        for name, old in present.items():
            if name not in wanted or not _same(old, wanted[name]):
                self._leaving[old.slot] = False
                self.states.end_by(old.slot, deadline_ns)
                self.states.set(old.slot, Flag.LEAVING, now_ns)
        for backend in service.backends:
            entry = present.get(backend.name)
            if entry is None or not _same(entry, backend):
                self.region.add_backend(backend.name, str(backend.address), backend.weight)
            elif entry.weight != backend.weight:
                self.region.set_weight(entry.slot, backend.weight)
        self.states.refresh()
        self.monitor.configure(service.health, now_ns)
        self._order(service, now_ns)
        self.shared_as = service.shared_as or service.name

    def _order(self, service: Service, now_ns: int) -> None:
        """Limits and states, where the configuration of a backend says another than before."""
        before, self._configured = self._configured, {}
        present = self.present()
        for backend in service.backends:
            entry = present[backend.name]
            self._configured[entry.identity] = backend
            former = before.get(entry.identity)
            if backend.max_connections != (former and former.max_connections):
                self.monitor.limit(backend.name, backend.max_connections or 0)
            if backend.state != (former.state if former else "ready"):
                self.monitor.order(backend.name, backend.state, now_ns)

    def remove(self) -> None:
        """The end of the region and of all watching."""
        self.monitor.close()
        self.region.remove()

    def confirmed(self) -> None:
        """All workers have heard of what `apply` did: who is leaving gets no flow any more."""
        self._leaving = dict.fromkeys(self._leaving, True)

    def let_go(self) -> None:
        """Give back the slots whose flows are over."""
        for slot in [slot for slot, known in self._leaving.items() if known]:
            if not self._flows[:, slot].any():
                del self._leaving[slot]
                self.region.remove_backend(slot)


def _same(entry: SlotEntry | None, backend: Backend) -> bool:
    return entry is not None and entry.address == str(backend.address)
