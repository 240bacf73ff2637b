"""What a topology needs of this host to run in network namespaces, and what of it is missing.

Lives here: the list. Never here: installing any of it: `make testbed-deps`.
"""

from __future__ import annotations

import os
import shutil

from testbed.lab import apache
from testbed.lab.cgroup import Hierarchy
from testbed.lab.driver import LabError
from testbed.lab.topology import Topology


def missing(topology: Topology) -> list[str]:
    """In the operator's words; nothing if it can run."""
    found = []
    if os.geteuid() != 0:
        found.append("root, to make network namespaces and control groups")
    try:
        Hierarchy.detect()
    except LabError as error:
        found.append(str(error))
    programs = ["nsenter", "setsid", "unshare"]
    if any(server.kind == "apache" for server in topology.groups):
        programs.append("apache2")
        if apache.php_module() is None:
            found.append("PHP's module for Apache")
    if topology.database is not None:
        programs += ["mariadbd", "memcached", "php"]
        if not apache.MEDIAWIKI.exists():
            found.append("MediaWiki")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return found + [name for name in programs if shutil.which(name, path=path) is None]
