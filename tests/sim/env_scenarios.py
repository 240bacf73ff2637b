"""Short scenarios for the tests of the environments."""

from __future__ import annotations

from testbed.sim.env.game import DEFAULT
from testbed.sim.scenario import Event, Servers

SHORT = DEFAULT.model_copy(update={"name": "short", "duration_s": 3.0, "warmup_s": 0.5})
LONE = SHORT.model_copy(update={"name": "lone", "balancers": 1, "servers": (Servers(count=3),)})
COMING = SHORT.model_copy(
    update={
        "name": "coming",
        "servers": (Servers(count=4), Servers(spare=True)),
        "events": (
            Event(at_s=1.0, server=4, kind="add"),
            Event(at_s=1.0, server=1, kind="remove"),
        ),
    }
)
