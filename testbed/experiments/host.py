"""What the host did while a run was on: whether its figures are the methods' or the host's.

Lives here: the readings, their difference, the bounds. Never here: what is done
about it (`season`).
Sources: proc_stat(5), cgroups(7), Documentation/accounting/psi.rst. The load average says nothing
here: workers that wait for their quota count in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.lab.cgroup import Hierarchy
from testbed.lab.driver import LabError

OTHERS_MAX = 0.05
"""Share of all cores' time that processes other than the experiment's may use.

The topologies leave about half of the smallest host's cores (two) to client and balancers, so that
queueing for a core is not the first harm: it is that requests cost more CPU time where caches and
hyper-threads are shared, by up to about the others' share. A load of 0.95 is 0.05 away from
saturation: a run that may be wrong by more says nothing about it.
"""

STEAL_MAX = 0.01
"""Share of all cores' time that the hypervisor kept. It comes in slices of milliseconds, as long as
the requests themselves, and no process of this host sees it coming."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Reading:
    """Seconds so far, over all cores. ours_s: CPU time of what belongs to the experiment.

    exact_s: of all processes, by the scheduler; None where no control groups tell.
    busy_s: the same by ticks.
    waiting_s: wall time in which somebody waited for a CPU; None where the kernel does not say.
    """

    at_s: float
    busy_s: float
    exact_s: float | None
    interrupts_s: float
    steal_s: float
    waiting_s: float | None
    ours_s: float


def read(ours_s: float) -> Reading:
    """Now."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = (int(f) / _TICKS_PER_S for f in fields)
    exact_s = None
    with contextlib.suppress(LabError, OSError):
        exact_s = Hierarchy.detect().spent_ns() / 1e9
    waiting_s = None
    with contextlib.suppress(OSError):
        some = _PRESSURE.read_text().split("\n", 1)[0]
        waiting_s = int(some.rpartition("total=")[2]) / 1e6
    busy_s = user + nice + system
    return Reading(time.monotonic(), busy_s, exact_s, irq + softirq, steal, waiting_s, ours_s)


@dataclass(frozen=True)
class Host:
    """Shares of all cores' time between two readings.

    ours, others: CPU time of the experiment's processes and of all else; interrupts: most are the
    experiment's packets. waiting: of wall time, somebody waited for a CPU, be it the experiment's.
    """

    seconds: float
    cores: int
    ours: float
    others: float
    interrupts: float
    steal: float
    waiting: float | None

    def why_not(self) -> tuple[str, ...]:
        """Every reason to distrust a run of that time; empty if there is none."""
        found = []
        if self.others > OTHERS_MAX:
            found.append(
                f"the host was busy with other things: {self.others:.1%} of its CPU time, "
                f"above {OTHERS_MAX:.0%}"
            )
        if self.steal > STEAL_MAX:
            found.append(f"the host lost {self.steal:.1%} of its CPU time, above {STEAL_MAX:.0%}")
        return tuple(found)


def between(before: Reading, after: Reading) -> Host:
    """What happened from one to the other. Where CPU time comes in ticks others may be off."""
    cores = os.cpu_count() or 1
    seconds = after.at_s - before.at_s
    whole_s = seconds * cores
    ours_s = after.ours_s - before.ours_s
    busy_s = after.busy_s - before.busy_s
    # Servers begin a period of their quota at a tick: ticks see 0.1 cores that nobody used.
    if before.exact_s is not None and after.exact_s is not None:
        busy_s = after.exact_s - before.exact_s
    waiting = None
    if before.waiting_s is not None and after.waiting_s is not None:
        waiting = (after.waiting_s - before.waiting_s) / seconds
    return Host(
        seconds=seconds,
        cores=cores,
        ours=ours_s / whole_s,
        others=max(0.0, busy_s - ours_s) / whole_s,
        interrupts=(after.interrupts_s - before.interrupts_s) / whole_s,
        steal=(after.steal_s - before.steal_s) / whole_s,
        waiting=waiting,
    )
