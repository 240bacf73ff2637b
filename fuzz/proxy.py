"""The PROXY protocol's parser: it ends with a header, with None, or with Malformed.

Lives here: the laws that every input is held to. Never here: the parser.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from lbd.wire import proxy
    from lbd.wire.malformed import Malformed
    from lbd.wire.proxied import Proxied


def parsed(data: bytes) -> Proxied | str | None:
    try:
        return proxy.parse(data)
    except Malformed:
        return "malformed"


def one_input(data: bytes) -> None:
    found = parsed(data)
    before = parsed(data[: len(data) // 2])
    if before is not None:
        # What was decided on fewer bytes stays decided.
        assert found == before, (found, before)
    if isinstance(found, Proxied):
        assert 0 < found.size <= len(data)
        assert parsed(data[: found.size]) == found
        assert parsed(data[: found.size - 1]) is None
    elif found is None:
        assert len(data) < proxy.MAX_HEADER_BYTES


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
