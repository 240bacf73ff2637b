"""A configuration file to a `Config`, or to all reasons why not.

Lives here: reading the file, and bringing together the problems that the layers below find.
Never here: rules and wording (`document`, `schema`, `relations`, `explain`); applying the result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from config.document import REFUSED, Document, parse
from config.explain import explain
from config.problem import ConfigError, Problem, dotted
from config.schema import Config

__all__ = ["ConfigError", "load", "load_as"]

M = TypeVar("M", bound=BaseModel)
Tell = Callable[[Document, ValidationError], list[Problem]]

MAX_FILE_BYTES = 1 << 20


def load(path: str | Path) -> Config:
    """The configuration in the YAML file at `path`.

    Paths in it are taken as relative to the file's folder and come out absolute. Reads the file
    once and touches nothing else: no name is resolved, no other file looked at.

    Raises ConfigError with all problems of the file; nothing else.
    """
    return load_as(Config, path, explain)


def load_as(model: type[M], path: str | Path, tell: Tell | None = None) -> M:
    """Another model's file, by the same reader. `tell` words its problems; or else pydantic does.

    Raises ConfigError with all problems of the file; nothing else.
    """
    path = Path(path)
    document = parse(_read(path))
    if document.value is REFUSED:
        raise ConfigError(path, document.problems)
    try:
        loaded = model.model_validate(document.value, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(path, [*document.problems, *(tell or _tell)(document, error)]) from None
    if document.problems:
        raise ConfigError(path, document.problems)
    return loaded


def _tell(document: Document, error: ValidationError) -> list[Problem]:
    return [
        Problem(document.line(found["loc"]), dotted(found["loc"]), found["msg"])
        for found in error.errors(include_url=False)
    ]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise _unreadable(path, 1, f"found no readable file ({reason})") from None
    if len(data) > MAX_FILE_BYTES:
        raise _unreadable(path, 1, f"found more than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, line, f"found bytes that are not UTF-8 ({error.reason})") from None


def _unreadable(path: Path, line: int, found: str) -> ConfigError:
    return ConfigError(path, [Problem(line, "(file)", f"{found}, expected a YAML file")])
