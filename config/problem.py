"""What is wrong with a configuration file, and the one exception that says so.

Lives here: the place of a key, and one problem a line for the operator.
Never here: finding problems (`document`, `schema`, `relations`) or wording them (`explain`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Loc = tuple[str | int, ...]
"""Where a value is: mapping keys and list positions from the top of the file."""


def dotted(loc: Loc) -> str:
    """The place as an operator reads it, `services[0].listen`; `(top level)` for the whole."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return key.removeprefix(".") or "(top level)"


@dataclass(frozen=True, order=True)
class Problem:
    """One thing to correct: on `line` (from 1), at `key`, `text` says what was found and expected.

    `key` is what `dotted` gives, or `(file)` or `(yaml)` where the text yields no keys at all.
    """

    line: int
    key: str
    text: str


class ConfigError(Exception):
    """The file at `path` is unusable; `problems` are all reasons, at least one, sorted by line.

    `str()` gives a line each, `FILE:LINE: dotted.key: what was found, what was expected`, in
    printable characters only, whatever the file holds.
    """

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        super().__init__(path, self.problems)

    def __str__(self) -> str:
        return "\n".join(
            _printable(f"{self.path}:{problem.line}: {problem.key}: {problem.text}")
            for problem in self.problems
        )


def _printable(text: str) -> str:
    """`text` on one line: it quotes the file, and a log or terminal must survive that."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
