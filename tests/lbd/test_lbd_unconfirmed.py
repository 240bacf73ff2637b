"""A configuration that a worker cannot take over now is not in force there, and is told again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo
from lbd_supervised import settle, supervised

import lbd.supervisor
from config.address import Address
from lbd.api import edits

Make = Callable[..., Backend]


def names(service: dict[str, Any]) -> list[str]:
    with ld.attached(service["name"]) as region:
        return [entry.name for entry in region.entries()]


async def test_a_worker_that_cannot_is_not_taken_for_one_that_has(
    backend: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The supervisor finds an address for a backend, a moment later its worker does not."""
    found: tuple[int, Any] = (socket.AF_INET6, ("fe80::1", 80, 0, 0))
    real = lbd.supervisor.resolve

    def resolve(address: Address) -> tuple[int, Any]:
        return found if "nowhere" in str(address) else real(address)

    monkeypatch.setattr(lbd.supervisor, "resolve", resolve)
    service = ld.service([backend(echo).address])
    gone = {"name": "gone", "address": "[fe80::1%nowhere]:80"}
    async with supervised(service) as supervisor:
        with caplog.at_level(logging.WARNING):
            edit = partial(edits.add_backend, service=service["name"], values=gone)
            await supervisor.edit(edit)
            unconfirmed = "a worker has not confirmed the new configuration yet"
            assert "worker 0: cannot resolve fe80::1%nowhere" in caplog.text
            assert unconfirmed in caplog.text
            await settle(lambda: caplog.text.count(unconfirmed) > 1, "the worker told again")
        assert not await supervisor.fleet.configure(supervisor.config)
        back = partial(edits.remove_backend, service=service["name"], backend="gone")
        await supervisor.edit(back)
        assert await supervisor.fleet.configure(supervisor.config)
        await settle(lambda: names(service) == ["b0"], "its slot given back")
