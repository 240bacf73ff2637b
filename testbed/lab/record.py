"""What a lab has made, written down before it is made, so that it can be removed after any end.

Lives here: the record's file. Never here: making or removing what it lists.

A record is `record.jsonl` in the lab's folder: a line that says what the lab is, then one line for
each thing that is about to be made, each on the disk before the thing is there. Names in it carry
the lab's token, which is random: nobody else's thing has such a name by chance. A torn last line
is that of a thing that was not begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from testbed.lab.driver import LabError
from testbed.lab.topology import NAME, Topology

_FILE = "record.jsonl"
_READY = "ready"
_TOKEN = re.compile(r"[0-9a-f]{6}")
_BETWEEN = re.compile(rf"\.({NAME.strip('^$')})-({_TOKEN.pattern})")
"""A record's folder on its way in or out: the lab's name and token."""


@dataclass(frozen=True)
class Thing:
    """Something that may have been made. kind: what removes it. name: how it is called."""

    kind: str
    name: str


class Record:
    """One lab's. Created by `create`, found again by `find`."""

    def __init__(self, folder: Path, topology: Topology, network: IPv4Network, token: str) -> None:
        self.folder = folder
        self.topology = topology
        self.network = network
        self.token = token

    @classmethod
    def create(cls, root: Path, topology: Topology, network: IPv4Network) -> Record:
        """A new lab's, complete with its first line or not there at all."""
        token = secrets.token_hex(3)
        draft = root / f".{topology.name}-{token}"
        draft.mkdir(mode=0o755)
        record = cls(draft, topology, network, token)
        record._append(
            {
                "topology": topology.model_dump(mode="json", by_alias=True),
                "network": str(network),
                "token": token,
            }
        )
        record.folder = root / topology.name
        draft.rename(record.folder)
        return record

    @classmethod
    def find(cls, root: Path, name: str) -> Record | None:
        """The record of the lab called `name`. Raises LabError for a folder that is no lab's."""
        folder = root / name
        if not folder.is_dir():
            return None
        lines = _lines(folder / _FILE)
        try:
            first = next(lines)
            topology = Topology.model_validate(first["topology"])
            if topology.name != name or not _TOKEN.fullmatch(first["token"]):
                raise ValueError(f"it is of {topology.name!r}, token {first['token']!r}")
            return cls(folder, topology, IPv4Network(first["network"]), first["token"])
        except (StopIteration, KeyError, TypeError, ValueError) as error:
            raise LabError(f"{folder} holds no record of a lab: {error!r}") from error

    @classmethod
    def all(cls, root: Path) -> list[Record]:
        """Every lab's below `root`."""
        names = sorted(path.parent.name for path in root.glob(f"[!.]*/{_FILE}"))
        return [record for name in names if (record := cls.find(root, name)) is not None]

    @property
    def prefix(self) -> str:
        """What the names of all its things begin with."""
        return f"lbd-{self.topology.name}-{self.token}"

    def intend(self, kind: str, name: str) -> None:
        """`name` is about to be made; returns when that will survive this process's end."""
        self._append({"kind": kind, "name": name})

    def things(self) -> list[Thing]:
        """All that may have been made, in order."""
        rest = list(_lines(self.folder / _FILE))[1:]
        return [Thing(line["kind"], line["name"]) for line in rest if "kind" in line]

    def complete(self) -> None:
        """All of the lab is there."""
        self._append({_READY: True})

    @property
    def is_complete(self) -> bool:
        return any(_READY in line for line in _lines(self.folder / _FILE))

    def remove(self) -> None:
        """Remove the folder and with it the record: nothing of the lab is left."""
        # Out of sight first: half a folder is nobody's lab.
        gone = self.folder.with_name(f".{self.folder.name}-{self.token}")
        self.folder.rename(gone)
        _discard(gone)

    def _append(self, line: dict[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        descriptor = os.open(
            self.folder / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Nobody else changes labs below `root` meanwhile. The kernel drops the lock with the process.

    Records that a killed process left on their way in or out are removed, and nothing else: by
    their names, and by what is in them.
    """
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for folder in root.iterdir():
            if _is_between(folder):
                _discard(folder)
        yield
    finally:
        os.close(descriptor)


def _is_between(folder: Path) -> bool:
    """Whether this is a record that was not yet, or is no longer, under its lab's name."""
    named = _BETWEEN.fullmatch(folder.name)
    if named is None or folder.is_symlink() or not folder.is_dir():
        return False
    inside = {path.name for path in folder.iterdir()}
    with contextlib.suppress(ValueError):
        first = next(_lines(folder / _FILE), None)
        if first is None:
            # Before its first line is complete, and after all else has gone.
            return inside <= {_FILE}
        about = first.get("topology")
        return isinstance(about, dict) and (about.get("name"), first.get("token")) == named.groups()
    return False


def _discard(folder: Path) -> None:
    """The record goes last: until then it says whose the rest is."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _FILE:
            path.unlink()
    (folder / _FILE).unlink(missing_ok=True)
    folder.rmdir()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        # Only the last line can be torn.
        if line.endswith("\n"):
            yield json.loads(line)
