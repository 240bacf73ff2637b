"""Slow start: the share of flows of a backend that has come back.

Lives here: the curve, pure. Never here: when it begins (`lbd.health.monitor`).
"""

from __future__ import annotations

from typing import Final

from config.health import SlowStart

STEPS: Final = 40
"""Shares are rounded down to one of so many steps: each change makes every worker look anew."""


def ramp(rule: SlowStart, elapsed_ns: int) -> float:
    """The share, `rule.floor` to 1, `elapsed_ns` after the return.

    Envoy's curve: time ** (1 / aggression) as a share of the window, not below the floor.
    """
    time = max(elapsed_ns, 0) * 1e-9 / rule.window_s
    if time >= 1.0:
        return 1.0
    steps = int(STEPS * time ** (1.0 / rule.aggression))
    return max(rule.floor, steps / STEPS)
