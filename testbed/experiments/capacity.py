"""What servers can do of a mix of pages: measured page by page, kept in a file.

Lives here: the mix, and the file. Never here: the measurement (`testbed.lab.calibrate`).
A rate that an experiment is run at must not change while it is resumed: what is in the file stays
as long as the servers' programs and the way to measure are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from testbed.experiments.demand import Demand, Page
from testbed.experiments.programs import versions
from testbed.lab.topology import Site, Topology
from testbed.sim.league.content import source_digest


class Capacities:
    """measure: requests a second and more, of a topology that serves one site, as data.

    given: requests a second by site, for whoever knows them.
    """

    def __init__(
        self,
        path: Path,
        measure: Callable[[Topology], Mapping[str, Any]],
        given: Mapping[str, float],
    ) -> None:
        self._path = path
        self._measure = measure
        self._given = given

    def of(self, topology: Topology, site: str, asked: Demand) -> float:
        """Requests a second that its servers can do of these."""
        # Netlink is needed by those who make labs only.
        from testbed.lab.calibrate import LOOP_ITERATIONS

        second_share = 0.0
        loops = asked.page == Page.LOOP
        if loops.any():
            iterations = float(asked.number[loops].sum()) / LOOP_ITERATIONS
            second_share += iterations / self._rate(topology, "loop")
        for page, of in ((Page.WIKI, site), (Page.STATIC, "static")):
            count = int((asked.page == page).sum())
            if count:
                second_share += count / self._rate(topology, of)
        return len(asked) / second_share

    def _rate(self, topology: Topology, site: str) -> float:
        if site in self._given:
            return self._given[site]
        known: dict[str, Any] = {}
        if self._path.is_file():
            known = json.loads(self._path.read_text())
        serving = topology.serving(cast(Site, site))
        # `calibrate` by name: it is imported where labs are made only.
        how = {"programs": versions(), "code": source_digest("testbed.lab.calibrate")}
        key = f"{topology.name} {site} {_digest(serving, how)}"
        if key not in known:
            known[key] = dict(self._measure(serving))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(known, indent=1))
            os.replace(new, self._path)
        return float(known[key]["rate_per_s"])


def _digest(topology: Topology, how: Mapping[str, Any]) -> str:
    content = json.dumps({"topology": topology.model_dump(mode="json"), **how}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
