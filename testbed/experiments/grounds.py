"""Where experiments are run: over loopback with servers that act as if, or on a lab's machines.

Lives here: what `season` needs of either. Never here: machines (`testbed.lab`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from testbed.experiments.capacity import Capacities
from testbed.experiments.season import Ground, embedded_capacity
from testbed.lab.driver import LabError
from testbed.lab.loopback import LoopbackLab
from testbed.lab.topology import NAME_MAX, Site, Topology, find, load_topology

GROUNDS = ("loopback", "namespaces")

_PREFIX = "run-"
_CALIBRATION_S = 10.0
_CALIBRATIONS = 3
"""Until one is to be believed: all rates come from it."""


def ground(name: str, folder: Path, given: Mapping[str, float], root: Path | None = None) -> Ground:
    """One of GROUNDS. What a lab's servers can do is measured once, and kept in `folder`.

    given: requests a second by site, instead of measuring. root: where labs are recorded, None for
    where `python -m testbed lab` has them. Raises LabError later, where a lab
    cannot be made.
    """
    if name == "loopback":
        return Ground(name, lambda topology, _: _named(topology), LoopbackLab, embedded_capacity)

    def measured(topology: Topology) -> dict[str, Any]:
        """The lab's own calibration of its one site."""
        from testbed.lab.calibrate import calibrate

        lab = place.open(topology)
        lab.reset()
        for _ in range(_CALIBRATIONS):
            (found,) = calibrate(lab, _CALIBRATION_S)
            if found.believable:
                return found.as_data()
        short = [f"{s.server} {s.quota_used:.0%}" for s in found.servers if not s.believable]
        raise LabError(
            f"{topology.name} cannot be calibrated: servers have had less CPU time than their "
            f"quota ({', '.join(short)}); the host is busy, or give --capacity"
        )

    capacities = Capacities(folder / "capacity.json", measured, given)
    place = Ground(
        name,
        lambda topology, site: _named(topology).serving(cast(Site, site)),
        lambda topology: _namespaces(topology, root),
        capacities.of,
    )
    return place


def _named(name: str) -> Topology:
    return load_topology(find(name))


@contextmanager
def _namespaces(topology: Topology, root: Path | None) -> Iterator[Any]:
    """Up for its block, under a name that only runs use: what has it already, a killed one left."""
    # Netlink is needed by those who make labs only.
    from testbed.lab.namespaces import ROOT, Namespaces

    driver = Namespaces(root or ROOT)
    name = f"{_PREFIX}{topology.name}"[:NAME_MAX]
    driver.down(name)
    lab = driver.up(topology.model_copy(update={"name": name}))
    try:
        yield lab
    finally:
        driver.down(name)
