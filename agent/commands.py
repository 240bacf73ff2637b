"""Commands of `lbd-agent` that other packages bring, such as `train`.

Lives here: the entry point group by which they are found. Never here: any command; the agent knows
none of them by name and imports none before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

GROUP: Final = "lbd_agent.commands"
"""Each names a callable of the arguments after its name, which returns an exit status."""


class UnknownCommandError(ValueError):
    """No installed package brings that command; the message names those there are."""


def find(name: str) -> Callable[[list[str]], int]:
    """The command of that name. Raises UnknownCommandError."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none is installed"
        raise UnknownCommandError(f"no command {name!r}; known: {known}")
    command: Callable[[list[str]], int] = found[name].load()
    return command
