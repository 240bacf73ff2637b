"""Where experiments are run: over loopback with servers that act as if, or on a lab's machines.

Lives here: what `season` needs of either. Never here: machines (`testbed.lab`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from testbed.experiments.season import Ground, embedded_capacity
from testbed.lab.loopback import LoopbackLab
from testbed.lab.topology import Site, Topology, find, load_topology

GROUNDS = ("loopback", "namespaces")


def ground(name: str, capacities: Mapping[str, float]) -> Ground:
    """One of GROUNDS. capacities: requests a second that the servers can do, by site, of real ones.

    Raises LabError later, where a lab cannot be made.
    """
    if name == "loopback":
        return Ground(name, lambda topology, _: _named(topology), LoopbackLab, embedded_capacity)
    return Ground(
        name,
        lambda topology, site: _named(topology).serving(cast(Site, site)),
        _namespaces,
        lambda topology, site, asked: capacities.get(site),
    )


def _named(name: str) -> Topology:
    return load_topology(find(name))


@contextmanager
def _namespaces(topology: Topology) -> Iterator[Any]:
    """Up for its block; one that was up before stays up."""
    # Netlink is needed by those who make labs only.
    from testbed.lab.namespaces import Namespaces

    driver = Namespaces()
    was_up = driver.find(topology.name) is not None
    lab = driver.up(topology)
    try:
        yield lab
    finally:
        if not was_up:
            driver.down(topology.name)
