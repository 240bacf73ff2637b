"""The ClientHello's parser: it ends with a hello, with None, or with Malformed.

Lives here: the laws that every input is held to. Never here: the parser.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from lbd.wire import client_hello
    from lbd.wire.client_hello import ClientHello
    from lbd.wire.malformed import Malformed


def parsed(data: bytes) -> ClientHello | str | None:
    try:
        return client_hello.parse(data)
    except Malformed:
        return "malformed"


def one_input(data: bytes) -> None:
    found = parsed(data)
    before = parsed(data[: len(data) // 2])
    if before is not None:
        # What was decided on fewer bytes stays decided.
        assert found == before, (found, before)
    if isinstance(found, ClientHello) and found.server_name is not None:
        name = found.server_name
        assert name == name.lower()
        assert not name.endswith(".")
        assert 0 < len(name) <= 254
    elif found is None:
        assert len(data) < client_hello.MAX_BYTES


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
