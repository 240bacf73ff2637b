"""The OpenAPI 3.1 description of the runtime API, made of its routes and models.

Lives here: OpenAPI's shape. Never here: a route, a field or its description.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from config.schema import Config
from lbd.api.models import Problem
from lbd.api.peer import Level
from lbd.api.routes import ROUTES, Route
from lbd.version import version

_REF = "#/components/schemas/{model}"
_PROBLEMS = {
    "400": "The wish is not valid; nothing has changed.",
    "403": "You may only read.",
    "404": "There is no such service or backend.",
    "409": "The configuration cannot be taken into force; nothing has changed.",
}


def description() -> dict[str, Any]:
    wishes: list[type[BaseModel]] = [route.wish for route in ROUTES if route.wish is not None]
    answers: list[type[BaseModel]] = [Problem, *(route.answer or Config for route in ROUTES)]
    models: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = []
    models += [(model, "validation") for model in dict.fromkeys(wishes)]
    models += [(model, "serialization") for model in dict.fromkeys(answers)]
    _, schemas = models_json_schema(models, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lbd runtime API",
            "version": version(),
            "description": "HTTP on a unix socket; the peer's credentials decide what it may do.",
        },
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "description": f"Level: {'operate' if route.level is Level.OPERATE else 'read'}.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
        + [
            {"name": name, "in": "query", "required": False, "schema": {"type": "integer"}}
            for name in route.query
        ],
        "responses": {
            "200": _body("Done.", (route.answer or Config).__name__),
            **{status: _body(text, Problem.__name__) for status, text in _PROBLEMS.items()},
        },
    }
    if route.wish is not None:
        operation["requestBody"] = {**_content(route.wish.__name__), "required": True}
    return operation


def _body(text: str, model: str) -> dict[str, Any]:
    return {"description": text, **_content(model)}


def _content(model: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}}
