"""HAProxy in a balancer's place, in TCP mode.

Lives here: its configuration and its process. Never here: other programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial

from testbed.experiments.place import Backend, Place, Standing, until_listening, whole_weights
from testbed.processes import Children


def start(name: str, place: Place, backends: Sequence[Backend], children: Children) -> Standing:
    """In the foreground, one thread, as lbd has one worker. Raises OSError where there is none."""
    config = place.folder / f"{place.tag}.cfg"
    config.write_text(configuration(name, place, backends))
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    argv = [program or "haproxy", "-db", "-f", str(config)]
    child = children.start(f"haproxy {place.tag}", argv, popen=place.popen)
    return Standing([child], partial(until_listening, child, place.host, place.port))


def configuration(name: str, place: Place, backends: Sequence[Backend]) -> str:
    """Weights are the provisioned ones; everything else is the program's default."""
    weights = whole_weights(backends)
    servers = "\n".join(
        f"  server {b.name} {b.host}:{b.port} weight {weights[b.name]}" for b in backends
    )
    return f"""global
  maxconn 8192
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend clients
  bind {place.host}:{place.port} backlog 4096
  default_backend servers
backend servers
  balance {name.partition("-")[2]}
{servers}
"""
