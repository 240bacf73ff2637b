"""What balancers tell each other: a datagram ends with what it tells, or with Malformed.

Lives here: the laws that every input is held to. Never here: the parser.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from lbd.peers.known import Peer
    from lbd.peers.sums import Sums
    from lbd.wire import peers
    from lbd.wire.malformed import Malformed

import numpy as np

SECRET = b"sixteen bytes or more"
SLOTS = 4


def one_input(data: bytes) -> None:
    try:
        told = peers.decode(data, None)
    except Malformed:
        return
    again = list(
        peers.encode(told.sender, told.sequence, told.service, told.exchanges, [told.told], None)
    )
    # Which part of how many it is, the sender of all of them knows.
    assert peers.decode(again[0], None).told == told.told
    try:
        peers.decode(data, SECRET)
    except peers.Unproven:
        pass
    else:
        raise AssertionError("believed without a proof")
    peer, sums = Peer("fuzz"), Sums(SLOTS)
    sums.follow({key: 1 for key in peers.unpack_keys(told.told.keys)[:1]}, np.arange(SLOTS))
    if peer.hear(told, 10**15) is None:
        sums.hear(peer.name, told, 10**15)
        sums.settle()
    assert min(sums.q) >= 0
    assert (sums.waits[0] >= 0).all()
    assert not sums.totals.any()
    sums.forget(peer.name)
    assert not any(sums.q)
    assert not sums.waits.any()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
