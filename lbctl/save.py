"""Puts what is in force into the configuration file: only what differs, comments kept.

Lives here: the file. Never here: what is in force (`lbctl.client`).
The file is checked as a whole before it takes the old one's place, at once or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from config.load import load


class SaveError(Exception):
    """The file was left as it was."""


def save(path: Path, in_force: Mapping[str, Any]) -> bool:
    """Bring the file at `path` to what is in force. False where it said so already.

    Raises SaveError where another file came of it than was meant, ConfigError, OSError.
    """
    # Not the link to it, where it is one.
    path = path.resolve()
    wanted = dict(in_force)
    text = path.read_text()
    before = load(path).model_dump(mode="json")
    if before == wanted:
        return False
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    document = yaml.load(text)
    _update(document, before, wanted)
    out = StringIO()
    yaml.dump(document, out)
    status = path.stat()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    made = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(out.getvalue())
            file.flush()
            os.fsync(file.fileno())
        # Whoever could read the old one, the daemon above all, can read this one.
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(made, status.st_uid, status.st_gid)
        made.chmod(status.st_mode & 0o777)
        if load(made).model_dump(mode="json") != wanted:
            raise SaveError(f"{path}: what is in force cannot be written into this file")
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return True


def _update(node: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Change the keys of a mapping of the document that differ."""
    for key in after:
        old, new = before.get(key), after[key]
        if old == new:
            continue
        if isinstance(new, dict) and isinstance(old, dict) and isinstance(node.get(key), dict):
            _update(node[key], old, new)
        elif isinstance(old, list) and _named(new) and isinstance(node.get(key), list):
            _update_list(node[key], old, new)
        else:
            node[key] = new


def _update_list(nodes: Any, before: list[Any], after: list[Any]) -> None:
    """The same of a list whose elements have names; the order is the file's, then what is new."""
    wanted = {element["name"]: element for element in after}
    known = {element["name"]: element for element in before}
    for index in reversed(range(len(nodes))):
        name = nodes[index]["name"]
        if name not in wanted:
            del nodes[index]
        else:
            _update(nodes[index], known[name], wanted[name])
    for name, element in wanted.items():
        if name not in known:
            nodes.append({key: value for key, value in element.items() if value is not None})


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)
