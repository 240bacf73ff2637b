"""The models are documented, immutable and check themselves without a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from config.address import Address
from config.schema import (
    POLICIES,
    WEIGHTED_POLICIES,
    Agent,
    Backend,
    Config,
    Ewma,
    Reservoir,
    Service,
    Timeouts,
)
from config.section import Section

A = Backend(name="a", address=Address.parse("127.0.0.1:9001"))
WEB = Service(name="web", listen=Address.parse("127.0.0.1:8080"), backends=(A,))


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from models(kind)


def test_defaults_are_the_documented_ones() -> None:
    assert Config(services=(WEB,)).model_dump() == {
        "workers": 1,
        "metrics": None,
        "status_page": False,
        "api": None,
        "peers": None,
        "log": {"file": None, "format": "text", "pending_lines": 10000},
        "services": (
            {
                "name": "web",
                "listen": "127.0.0.1:8080",
                "policy": "sed",
                "weights": "static",
                "fallback": "ewma",
                "ewma": {"memory_flows": 200, "memory_s": None},
                "load": "flows",
                "slots": 64,
                "timeouts": {
                    "connect_ms": 5000,
                    "idle_s": 300,
                    "total_s": None,
                    "drain_s": 30,
                },
                "max_connections": 10000,
                "responses": None,
                "reservoir": {"size": 128, "probability": None},
                "proxy_in": None,
                "proxy_out": None,
                "sni": (),
                "stick": None,
                "hash_bound": 1.25,
                "limits": {
                    "overload": "wait",
                    "per_source": None,
                    "preface_ms": 3000,
                    "first_byte_s": None,
                    "slow_client": None,
                },
                "source": {"address": None, "interface": None},
                "health": {
                    "check": None,
                    "passive": {
                        "failures": 5,
                        "eject_s": 5,
                        "eject_max_s": 300,
                        "max_ejected": 0.5,
                    },
                    "feedback": None,
                    "slow_start": None,
                    "panic_below": 0.1,
                    "on_down": "keep",
                },
                "retry": {
                    "same": 0,
                    "others": 2,
                    "pause_ms": 200,
                    "budget": 0.2,
                    "budget_per_s": 10,
                },
                "queue": {"size": 1000, "timeout_ms": 5000},
                "flow_log": None,
                "shared_as": None,
                "backends": (
                    {
                        "name": "a",
                        "address": "127.0.0.1:9001",
                        "weight": 1,
                        "max_connections": None,
                        "state": "ready",
                        "dns": None,
                    },
                ),
            },
        ),
        "agent": {
            "interval_ms": 250,
            "mode": "frozen",
            "checkpoint": None,
            "save": None,
            "save_every_s": 30,
            "reward": None,
            "base": "latency",
            "max_ratio": 16,
            "expiry_ms": 1000,
            "seed": 0,
        },
        "resolver": {"nameservers": (), "timeout_ms": 2000, "tries": 3},
    }


def test_every_key_of_every_section_is_described() -> None:
    for model in models(Config):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.endswith("."), f"{model.__name__}.{name}"


def test_every_section_is_immutable_and_refuses_unknown_keys() -> None:
    found = set(models(Config))
    assert found > {Config, Service, Backend, Ewma, Timeouts, Reservoir, Agent}
    for model in found:
        assert issubclass(model, Section)
        assert model.model_config["frozen"]
        assert model.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError):
        WEB.slots = 3


def test_a_reference_can_be_generated() -> None:
    schema = Config.model_json_schema()
    assert schema["$defs"]["Service"]["properties"]["listen"]["type"] == "string"


def test_the_weighted_policies_are_policies() -> None:
    assert set(WEIGHTED_POLICIES) < set(POLICIES)
    assert len(set(POLICIES)) == len(POLICIES) == 12


@pytest.mark.parametrize("policy", POLICIES)
def test_only_weighted_policies_take_the_agents_weights(policy: str) -> None:
    data = WEB.model_dump() | {"policy": policy, "weights": "agent"}
    if policy in WEIGHTED_POLICIES:
        assert Service.model_validate(data).policy == policy
    else:
        with pytest.raises(ValidationError, match=f"the policy {policy} ignores"):
            Service.model_validate(data)


def test_objects_made_in_python_are_held_to_the_rules_across_elements() -> None:
    with pytest.raises(ValidationError, match=r"services\[1\].name: a unique name"):
        Config(services=(WEB, WEB))


def test_paths_stay_as_they_are_without_a_file() -> None:
    assert Agent(checkpoint=Path("a/b")).checkpoint == Path("a/b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_infinite_or_nan(value: float) -> None:
    with pytest.raises(ValidationError):
        Backend(name="a", address=A.address, weight=value)
