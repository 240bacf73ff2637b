"""The configuration's reference page, from the models: `python -m config.reference`.

Lives here: the page. Never here: a description; each stands at its field in `schema`.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from config.api import Api
from config.connecting import Queue, Retry
from config.edges import Limits, PerSource, ProxyIn, ProxyOut, SlowClient, Source, Stick
from config.health import Check, Feedback, Health, Passive, SlowStart
from config.logs import FlowLog, Log
from config.names import Dns, Resolver
from config.peers import Peers
from config.schema import Agent, Backend, Config, Ewma, Reservoir, Service, Timeouts

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("the file", Config),
    ("services[]", Service),
    ("services[].backends[]", Backend),
    ("services[].backends[].dns", Dns),
    ("services[].ewma", Ewma),
    ("services[].timeouts", Timeouts),
    ("services[].reservoir", Reservoir),
    ("services[].proxy_in", ProxyIn),
    ("services[].proxy_out", ProxyOut),
    ("services[].stick", Stick),
    ("services[].limits", Limits),
    ("services[].limits.per_source", PerSource),
    ("services[].limits.slow_client", SlowClient),
    ("services[].source", Source),
    ("services[].health", Health),
    ("services[].health.check", Check),
    ("services[].health.passive", Passive),
    ("services[].health.feedback", Feedback),
    ("services[].health.slow_start", SlowStart),
    ("services[].retry", Retry),
    ("services[].queue", Queue),
    ("services[].flow_log", FlowLog),
    ("agent", Agent),
    ("api", Api),
    ("peers", Peers),
    ("log", Log),
    ("resolver", Resolver),
)


def page() -> str:
    """Markdown: a table a section, a row a key."""
    parts = [
        "# Configuration",
        "One YAML file serves `lbd` and `lbd-agent`. Unknown keys are errors. This page is made by "
        "`python -m config.reference > docs/configuration.md`.",
    ]
    for title, model in SECTIONS:
        rows = ["| key | default | |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            rows.append(f"| `{name}` | {_default(field.default)} | {field.description} |")
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(page(), end="")
