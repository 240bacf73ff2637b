"""nginx's stream module in a balancer's place.

Lives here: its configuration and its process. Never here: other programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from testbed.experiments.place import Backend, Place, Standing, until_listening, whole_weights
from testbed.processes import Children

_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian has it; elsewhere it may be built in."""


def start(name: str, place: Place, backends: Sequence[Backend], children: Children) -> Standing:
    """In the foreground, one process. Raises OSError where there is none."""
    folder = place.folder / place.tag
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(configuration(name, place, backends))
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    argv = [program or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
    child = children.start(f"nginx {place.tag}", argv, popen=place.popen)
    return Standing([child], partial(until_listening, child, place.host, place.port))


def configuration(name: str, place: Place, backends: Sequence[Backend]) -> str:
    """Weights are the provisioned ones; everything else is the program's default.

    One process is master and worker: a worker of its own would outlive a master that is killed. The
    upstream's zone is what would let worker processes share counts; there is one.
    """
    weights = whole_weights(backends)
    servers = "\n".join(f"    server {b.host}:{b.port} weight={weights[b.name]};" for b in backends)
    module = f"load_module {_MODULE};\n" if _MODULE.exists() else ""
    return f"""{module}daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
stream {{
  upstream servers {{
    {name.partition("-")[2]};
{servers}
  }}
  server {{
    listen {place.host}:{place.port} backlog=4096;
    proxy_pass servers;
    proxy_connect_timeout 5s;
    proxy_timeout 300s;
  }}
}}
"""
