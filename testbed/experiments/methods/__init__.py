"""What can stand in a balancer's place, by name.

Lives here: the names and which module starts each. Never here: configurations, processes.

- `ecmp`, `wcmp`, `lsq`, `sed`, `ewma`, … : lbd with that policy and the provisioned weights; of
  `lsq`, `ewma` and others that need none they are ignored
- `agent`: lbd with shortest expected delay and the weights of the frozen agent that comes with it;
  no weight is configured. `agent:FILE`: with another policy
- `awcmp`: lbd choosing at random by weights that a prober corrects, which asks every server four
  times a second. `awcmp:HZ`: so often
- `router-ecmp`, `router-wcmp`: nobody; the edge router spreads connections over the servers
  themselves, alike or in proportion to the provisioned weights
- `haproxy-leastconn`, `haproxy-roundrobin`, `haproxy-random`, `nginx-least_conn`: these programs
  with the provisioned weights
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from lbd.dispatch import POLICIES
from testbed.experiments.place import Backend, Place, Standing, whole_weights
from testbed.processes import Children

_HAPROXY = ("leastconn", "roundrobin", "random")
_NGINX = ("least_conn",)
_ROUTER = ("router-ecmp", "router-wcmp")


class MethodError(ValueError):
    """No such method; the message names those that there are."""


def names() -> list[str]:
    """All methods, without parameters."""
    others = [f"haproxy-{name}" for name in _HAPROXY] + [f"nginx-{name}" for name in _NGINX]
    return [*POLICIES, "agent", "awcmp", *others, *_ROUTER]


def check(name: str) -> None:
    """Raises MethodError for what is none."""
    plain, colon, parameter = name.partition(":")
    if plain == "awcmp":
        fits = not colon or _is_rate(parameter)
    else:
        fits = not colon or (plain == "agent" and parameter != "")
    if plain not in names() or not fits:
        raise MethodError(
            f"no method {name!r}; there are {', '.join(names())}, agent:FILE, awcmp:HZ"
        )


def _is_rate(text: str) -> bool:
    try:
        return 0.01 <= float(text) <= 100.0
    except ValueError:
        return False


def needs_sensors(name: str) -> bool:
    """Whether servers are asked how busy they are."""
    return name.partition(":")[0] == "awcmp"


def ours(name: str) -> bool:
    """Whether lbd stands there."""
    return not name.startswith(("haproxy-", "nginx-", "router-"))


def learned(name: str) -> bool:
    """Whether an agent decides."""
    return name.partition(":")[0] == "agent"


def router_weights(name: str, backends: Sequence[Backend]) -> dict[str, int] | None:
    """How the edge router spreads connections over the servers; None where balancers do it."""
    if name not in _ROUTER:
        return None
    if name == "router-ecmp":
        return {backend.name: 1 for backend in backends}
    return whole_weights(backends, largest=20)


def modules(name: str) -> tuple[str, ...]:
    """Those that make it what it is, to be followed through their imports."""
    plain = name.partition(":")[0]
    if plain in _ROUTER:
        return ()
    if not ours(name):
        return (f"testbed.experiments.methods.{plain.partition('-')[0]}",)
    found = ("testbed.experiments.methods.lbd", "lbd.worker", "lbd.supervisor")
    if learned(name):
        return (*found, "agent.live")
    if needs_sensors(name):
        return (*found, "testbed.experiments.awcmp", "testbed.experiments.sensor")
    return found


def start(name: str, place: Place, backends: Sequence[Backend], children: Children) -> Standing:
    """Start it, without waiting; it ends with `children`.

    Raises MethodError, or OSError where the program is not there.
    """
    check(name)
    program = "lbd" if ours(name) else name.partition("-")[0]
    module = importlib.import_module(f"testbed.experiments.methods.{program}")
    standing: Standing = module.start(name, place, backends, children)
    return standing
