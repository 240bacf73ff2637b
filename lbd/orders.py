"""What a worker does for the supervisor, an answer a message.

Lives here: the orders and their answers, plain JSON. Never here: how they travel (`lbd.channel`).
An order that cannot be carried out is answered with its `error`; one that is unknown is a fault of
ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any

from config.schema import Config
from lbd import view
from lbd.channel import Message
from lbd.service import Service


class Orders:
    """`configure` takes a configuration into force, `reopen` opens the log anew; the first may
    raise OSError."""

    def __init__(
        self,
        services: Sequence[Service],
        configure: Callable[[Config], None],
        reopen: Callable[[], None],
    ) -> None:
        self._services = {service.config.name: service for service in services}
        self._configure = configure
        self._reopen = reopen

    def answer(self, order: Message) -> Message:
        answers: dict[str, Callable[[Message], Any]] = {
            "configure": self._take,
            "flows": self._flows,
            "explain": self._explain,
            "reopen": lambda _: self._reopen(),
        }
        try:
            return {"number": order["number"], "answer": answers[order["order"]](order)}
        except OSError as error:
            return {"number": order["number"], "error": str(error)}

    def _take(self, order: Message) -> None:
        self._configure(Config.model_validate(order["config"]))

    def _flows(self, order: Message) -> dict[str, Any]:
        """The oldest `limit` open flows of a service, and how many there are."""
        service = self._services[order["service"]]
        found = view.flows(service, monotonic_ns(), order["limit"])
        return {"open": len(service.relays), "flows": found}

    def _explain(self, order: Message) -> dict[str, Any]:
        return view.explain(self._services[order["service"]])
