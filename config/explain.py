"""A failed validation in the operator's words: what was found, what was expected.

Lives here: the wording of the schema's errors, and the search for the key that was meant.
Never here: the rules themselves (`schema`, `relations`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config.document import Document
from config.problem import Problem, dotted
from config.relations import clashes
from config.schema import Config

_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
_MAX_MATCHED_CHARS = 64  # difflib takes quadratic time


def explain(document: Document, error: ValidationError) -> list[Problem]:
    """All that `schema` and `relations` object to in `document`, but for what it reports itself.

    `error` is what validating `document.value` as a `Config` has raised.
    """
    problems = [
        _problem(document, details)
        for details in error.errors(include_url=False)
        if not document.covers(details["loc"]) and not _is_echo(details)
    ]
    for clash in clashes(document.value):
        found = document.found(clash.loc, clash.value)
        text = f"found {found}, expected {clash.expected}"
        problems.append(Problem(document.line(clash.loc), dotted(clash.loc), text))
    return problems


def _is_echo(details: ErrorDetails) -> bool:
    """Whether an error only repeats others that are reported by themselves."""
    match details["type"]:
        case "value_error":
            return details["loc"] == ()  # the clashes, in one
        case "too_short":
            return bool(details["input"])  # its elements are there, but invalid
        case _:
            return False


def _problem(document: Document, details: ErrorDetails) -> Problem:
    loc, value = details["loc"], details["input"]
    line = document.line(loc)
    match details["type"]:
        case "extra_forbidden":
            line = document.key_lines[loc]
            known = _fields(loc[:-1])
            text = f"found an unknown key, expected one of {_choice(known, loc[-1])}"
        case "missing":
            field = _field(loc)
            described = field.description if field else None
            text = f"found no such key, expected one: {described}"
        case _:
            text = f"found {document.found(loc, value)}, expected {_expected(details)}"
    return Problem(line, dotted(loc), text)


def _expected(details: ErrorDetails) -> str:
    field = _field(details["loc"])
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "literal_error" if field:
            return f"one of {_choice(_alternatives(field.annotation), details['input'])}"
        case "string_type":
            return "text, in quotes"
        case "string_pattern_mismatch":
            return f"text that matches {details['ctx']['pattern']}"
        case "model_type":
            return "a mapping"
        case "tuple_type":
            return "a list"
        case "too_short":
            return "at least one element"
        case _ if field:
            return _number(field)
    return details["msg"]


def _number(field: FieldInfo) -> str:
    """What a number in `field` may be, with all its bounds at once."""
    kinds = (field.annotation, *get_args(field.annotation))
    bounds = [
        f"{words} {bound:g}" if abs(bound) < 1e5 else f"{words} {bound}"
        for name, words in _BOUNDS.items()
        for constraint in field.metadata
        if (bound := getattr(constraint, name, None)) is not None
    ]
    noun = "a whole number" if int in kinds else "a number"
    null = ", or null" if type(None) in kinds else ""
    return f"{noun}, {' and '.join(bounds)}{null}"


def _choice(known: Iterable[str], given: object) -> str:
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given)[:_MAX_MATCHED_CHARS].lower(), names, n=1)
    return ", ".join(names.values()) + "".join(f"; did you mean {names[low]}?" for low in near)


def _alternatives(annotation: object) -> list[str]:
    """What a Literal permits, be it alone or within a list or a union."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [str(part) for part in parts]
    return [name for part in parts for name in _alternatives(part)]


def _field(loc: tuple[int | str, ...]) -> FieldInfo | None:
    """The schema's entry for the key at `loc`; None if it has none."""
    keys = [part for part in loc if isinstance(part, str)]
    return _fields(tuple(keys[:-1])).get(keys[-1]) if keys else None


def _fields(loc: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The keys of the mapping at `loc`, whatever the positions in lists on the way."""
    fields = Config.model_fields
    for part in loc:
        if isinstance(part, str):
            fields = next(_submodels(fields[part])).model_fields
    return fields


def _submodels(field: FieldInfo) -> Iterator[type[BaseModel]]:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
