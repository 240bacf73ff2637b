"""Paths in a configuration: relative to the folder of the file that names them.

Lives here: the type. Never here: reading what is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema


def _path(value: object, info: ValidationInfo) -> Path:
    """A path, taken as relative to `folder` in the validation context if there is one."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("a path, as text")
    return Path((info.context or {}).get("folder", "")) / value


FilePath = Annotated[
    Path, PlainValidator(_path), PlainSerializer(str), WithJsonSchema({"type": "string"})
]
