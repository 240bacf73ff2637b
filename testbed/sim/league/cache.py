"""Figures of runs that were played before, in one file that several leagues may use at once.

Lives here: the file. Never here: what makes two runs the same (`content`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from testbed.sim.league.match import Figures

_WAIT_S = 30.0


class Cache:
    """Keys of `content.key` to figures. Each `put` is on disk when it returns.

    Raises sqlite3.Error if the file is none of ours, or locked for longer than half a minute.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, figures TEXT)"
            )

    def get(self, keys: Iterable[str]) -> dict[str, Figures]:
        """Those of `keys` that are known."""
        with closing(self._open()) as connection:
            found = {}
            for key in keys:
                row = connection.execute(
                    "SELECT figures FROM runs WHERE key = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = Figures(**json.loads(row[0]))
        return found

    def put(self, played: Mapping[str, Figures]) -> None:
        rows = [(key, json.dumps(asdict(figures))) for key, figures in played.items()]
        with closing(self._open()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_WAIT_S)
