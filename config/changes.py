"""From one configuration to another: what can be changed in place, and what cannot.

Lives here: the comparison, pure. Never here: doing it (`lbd.supervisor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from config.edges import EDGES
from config.schema import Config

# A service's keys that workers and regions are built around.
_BUILT_IN = ("name", "listen", "load", "slots", "reservoir", *EDGES)


@dataclass(frozen=True)
class Change:
    """One key, by its dotted path with names for list positions; None where it is not there."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_told(self.before)} -> {_told(self.after)}"


def needs_new_workers(before: Config, after: Config) -> bool:
    """Whether listeners, workers or regions change; all else workers take over in place."""

    def frame(config: Config) -> list[Any]:
        services = [[getattr(s, key) for key in _BUILT_IN] for s in config.services]
        # Regions have room for what peers tell, or they do not.
        optional = [config.metrics is None, config.peers is None]
        return [config.workers, *optional, config.log, services]

    return frame(before) != frame(after)


def changes(before: Config, after: Config) -> list[Change]:
    """Every key that differs, services and backends told apart by their names."""
    return list(_differences("", before.model_dump(mode="json"), after.model_dump(mode="json")))


def _differences(path: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after:
        return
    before, after = _named(before), _named(after)
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield Change(path, before, after)
        return
    for key in dict.fromkeys((*before, *after)):
        yield from _differences(f"{path}.{key}" if path else key, before.get(key), after.get(key))


def _named(value: Any) -> Any:
    """A list of named elements as a mapping by name: their order says nothing."""
    if isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value):
        return {v["name"]: v for v in value}
    return value


def _told(value: Any) -> str:
    if value is None:
        return "nothing"
    return str(value["address"]) if isinstance(value, dict) and "address" in value else str(value)
