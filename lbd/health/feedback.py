"""What a server says of itself, in HAProxy's agent-check protocol.

Lives here: the parser, pure and total: whatever bytes come, it answers. Never here: the connection.

One line of ASCII words, parted by spaces, tabs or commas, up to the first end of line:

    75%          its share of flows, in percent of the configured weight; none at 0%
    maxconn:30   how many flows it takes at once
    ready        neither drain nor maint any more
    drain, maint no new flows; in maint no checks either
    up           it is up
    down, failed, stopped   it is down; what follows a `#` says why
What is not said stays as it was; what is not understood is left out (HAProxy's management guide,
"agent-check").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

MAX_BYTES: Final = 1024
"""Of an answer; what is beyond is not read."""
MAX_PERCENT: Final = 10_000
MAX_FLOWS: Final = 1_000_000

_PERCENT: Final = re.compile(r"[0-9]{1,9}%")
_MAXCONN: Final = re.compile(r"maxconn:[0-9]{1,9}")
_PART: Final = re.compile(r"[ \t,]+")
_ADMIN: Final[dict[str, Literal["ready", "drain", "maint"]]] = {
    "ready": "ready",
    "drain": "drain",
    "maint": "maint",
}
_UP: Final = {"up": True, "down": False, "fail": False, "failed": False, "stopped": False}


@dataclass(frozen=True)
class Feedback:
    """None is for what was not said. share: 0.75 for `75%`."""

    share: float | None = None
    max_flows: int | None = None
    admin: Literal["ready", "drain", "maint"] | None = None
    up: bool | None = None
    reason: str = ""


def parse(answer: bytes) -> Feedback:
    """Never raises. Of words that contradict each other the last one counts."""
    line = re.split(rb"[\r\n\0]", answer[:MAX_BYTES], maxsplit=1)[0].decode("ascii", "replace")
    words, _, reason = line.partition("#")
    share: float | None = None
    max_flows: int | None = None
    admin: Literal["ready", "drain", "maint"] | None = None
    up: bool | None = None
    for word in _PART.split(words.lower()):
        if word in _ADMIN:
            admin = _ADMIN[word]
        elif word in _UP:
            up = _UP[word]
        elif _PERCENT.fullmatch(word):
            share = min(int(word[:-1]), MAX_PERCENT) / 100
        elif _MAXCONN.fullmatch(word):
            max_flows = min(int(word.partition(":")[2]), MAX_FLOWS)
    reason = "".join(char for char in reason if char.isprintable()).strip()
    return Feedback(share, max_flows, admin, up, reason)
