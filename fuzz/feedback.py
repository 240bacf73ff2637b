"""The parser of HAProxy's agent-check: whatever a server says, it answers, and within bounds.

Lives here: the laws that every input is held to. Never here: the parser.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from lbd.health import feedback
    from lbd.health.feedback import Feedback


def said(found: Feedback) -> bytes:
    """A line that says the same."""
    words = [] if found.share is None else [f"{round(found.share * 100)}%"]
    words += [] if found.max_flows is None else [f"maxconn:{found.max_flows}"]
    words += [] if found.admin is None else [found.admin]
    words += [] if found.up is None else ["up" if found.up else "down"]
    return f"{' '.join(words)} # {found.reason}\n".encode("ascii", "replace")


def one_input(data: bytes) -> None:
    found = feedback.parse(data)
    if found.share is not None:
        assert 0 <= found.share <= feedback.MAX_PERCENT / 100
    if found.max_flows is not None:
        assert 0 <= found.max_flows <= feedback.MAX_FLOWS
    assert found.reason.isprintable()
    # The line's end is the end, and so is the bound.
    line = data[: feedback.MAX_BYTES].splitlines()[0] if data else b""
    if len(line) < feedback.MAX_BYTES - 1:
        assert feedback.parse(line.split(b"\0")[0] + b"\n99% maint down") == feedback.parse(line)
    assert feedback.parse(data[: feedback.MAX_BYTES]) == found
    if found.reason.isascii():
        again = feedback.parse(said(found))
        if len(said(found)) < feedback.MAX_BYTES:
            assert again == found, (again, found)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
