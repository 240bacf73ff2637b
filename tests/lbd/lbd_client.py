"""The other sides of a service: its clients, and an agent that is only a hand on the weights.

Lives here: one flow, and what the totals say once flows are over. Never here: starting things.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import lbd_daemon as ld
import numpy as np
from lbd_backends import read_all
from lbd_waiting import DEADLINE_S, until

from config.address import Address
from shm.region import Region
from shm.weights import AgentBlock


def connect(service: dict[str, Any]) -> socket.socket:
    address = Address.parse(service["listen"])
    if address.kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(DEADLINE_S)
        sock.connect(address.path)
        return sock
    return socket.create_connection((address.host, address.port), DEADLINE_S)


def ask(service: dict[str, Any], data: bytes = b"ping") -> bytes:
    """One flow: send, half-close, read all."""
    with connect(service) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def settled(name: str, flows: int) -> dict[str, int]:
    """The totals, once as many flows are over."""

    def look() -> dict[str, int]:
        found = ld.totals(name)
        return found if found["flows_total"] == flows and found["flows"] == 0 else {}

    return until(look, f"{flows} flows over")


def served(name: str, clients: int) -> dict[str, int]:
    """The totals, once as many clients' flows are over, whatever attempts each took."""

    def look() -> dict[str, int]:
        found = ld.totals(name)
        further = found["redispatched_total"] + found["retried_total"]
        over = found["flows_total"] - further == clients and found["flows"] == 0
        return found if over else {}

    return until(look, f"the flows of {clients} clients over")


def refused(service: dict[str, Any]) -> bool:
    try:
        connect(service).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # it was let in, and the listener closed while it still connected
    return False


class FakeAgent:
    """Holds a region's agent block and writes frames."""

    def __init__(self, name: str) -> None:
        self.region = Region.attach(name)
        self.block = AgentBlock(self.region)
        self.slots = self.region.active_slots()

    def give(self, *weight: float, expiry_s: float = 60.0, shift: int = 0) -> None:
        now_ns = time.monotonic_ns()
        identity = self.region.identities()[self.slots] + np.uint64(shift)
        expires_ns = now_ns + int(expiry_s * 1e9)
        self.block.publish(self.slots, identity, np.array(weight), now_ns, expires_ns)

    def close(self) -> None:
        self.region.close()
