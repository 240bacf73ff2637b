"""One configuration to another by a single wish of an operator's: pure.

Lives here: what each wish means for the configuration. Never here: taking it into force.
The result is validated like a file. Raises EditError, whose message says what was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from config.problem import dotted
from config.schema import Config


class EditError(Exception):
    """The configuration cannot be changed so."""


class UnknownError(EditError):
    """There is no service or backend of that name."""


def set_service(config: Config, service: str, values: Mapping[str, Any]) -> Config:
    """Keys of a service."""
    data = _data(config)
    _service(data, service).update(values)
    return _valid(data)


def set_backend(config: Config, service: str, backend: str, values: Mapping[str, Any]) -> Config:
    """Keys of a backend."""
    data = _data(config)
    _backend(_service(data, service), backend).update(values)
    return _valid(data)


def add_backend(config: Config, service: str, values: Mapping[str, Any]) -> Config:
    """Another backend."""
    data = _data(config)
    _service(data, service)["backends"].append(dict(values))
    return _valid(data)


def remove_backend(config: Config, service: str, backend: str) -> Config:
    """A backend less; the last one stays."""
    data = _data(config)
    found = _service(data, service)
    found["backends"].remove(_backend(found, backend))
    return _valid(data)


def _data(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _service(data: dict[str, Any], name: str) -> dict[str, Any]:
    for service in data["services"]:
        if service["name"] == name:
            return dict_of(service)
    raise UnknownError(f"there is no service {name}")


def _backend(service: dict[str, Any], name: str) -> dict[str, Any]:
    for backend in service["backends"]:
        if backend["name"] == name:
            return dict_of(backend)
    raise UnknownError(f"service {service['name']} has no backend {name}")


def dict_of(value: Any) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def _valid(data: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{dotted(details['loc'])}: {_told(details['msg'])}"
            for details in error.errors(include_url=False)
            # A list that is too short only for what is wrong within it says nothing new.
            if details["type"] != "too_short" or not details["input"]
        ]
        raise EditError("; ".join(problems)) from None


def _told(message: str) -> str:
    return message.removeprefix("Value error, ")
