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
    """No installed package brings that command, or it needs one that is not installed."""


def find(name: str) -> Callable[[list[str]], int]:
    """The command of that name. Raises UnknownCommandError."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none is installed"
        raise UnknownCommandError(f"no command {name!r}; known: {known}")
    try:
        command: Callable[[list[str]], int] = found[name].load()
    except ModuleNotFoundError as error:
        raise UnknownCommandError(
            f"command {name!r} needs the package {error.name!r}, which is not installed"
        ) from error
    return command
