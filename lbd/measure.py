"""What a service's `load` means: which rows are its q, which flows and ledger keep them.

Lives here: the table. Never here: how either is counted (`lbd.flow`, `lbd.exchanges`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lbd.exchanges import ExchangeFlow, ExchangeLedger
from lbd.flow import Flow
from lbd.ledger import ShmLedger


@dataclass(frozen=True)
class Measure:
    """rows: those of q, of what waits for a first byte, and of the sum of its starts.

    flow(ledger, slot, now_ns): a new flow on an instance of `ledger`.
    """

    rows: tuple[str, str, str]
    flow: Callable[[Any, int, int], Flow]
    ledger: type[ShmLedger]


MEASURES: Final = {
    "flows": Measure(("flows", "waiting", "waiting_start_ns"), Flow, ShmLedger),
    "exchanges": Measure(("busy", "exchanges", "exchanges_start_ns"), ExchangeFlow, ExchangeLedger),
}
