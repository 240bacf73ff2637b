"""Metrics of the other balancers: whether they are heard, and the datagrams.

Lives here: their families. Never here: counting (`lbd.peers.talk`); the other families
(`lbd.metrics`). A balancer is named by the address where it listens.
"""

from __future__ import annotations

from typing import Final

from lbd.exposition import Exposition, Family
from lbd.peers.known import Refusal
from lbd.peers.talk import Talk

_PEER: Final = ("peer",)
_UP: Final = Family(
    "lbd_peer_up", "gauge", "Whether the other balancer is heard, and its flows count.", _PEER
)
_AGE: Final = Family(
    "lbd_peer_heard_age_seconds",
    "gauge",
    "Time since the other balancer was last heard; absent until it was.",
    _PEER,
)
_TOTALS: Final = {
    "sent_total": Family(
        "lbd_peer_datagrams_sent_total", "counter", "Datagrams to the other balancer.", _PEER
    ),
    "dropped_total": Family(
        "lbd_peer_datagrams_dropped_total",
        "counter",
        "Datagrams that could not be sent: a full buffer, no way to there.",
        _PEER,
    ),
    "received_total": Family(
        "lbd_peer_datagrams_received_total",
        "counter",
        "Datagrams of the other balancer that were taken.",
        _PEER,
    ),
    "lost_total": Family(
        "lbd_peer_datagrams_lost_total",
        "counter",
        "Datagrams missing between those that were taken.",
        _PEER,
    ),
}
_REFUSED: Final = Family(
    "lbd_peer_datagrams_refused_total",
    "counter",
    "Datagrams not taken. stranger: from no member's address; unproven: another key, or none; "
    "malformed; old: reordered, twice, of an earlier life; own: this balancer's; unknown: of a "
    "service that is not here, or counts otherwise.",
    ("reason",),
)
PEER_FAMILIES: Final = (_UP, _AGE, *_TOTALS.values(), _REFUSED)


def add_peers(out: Exposition, talk: Talk | None, now_ns: int) -> None:
    """All families; none without peers."""
    if talk is None:
        return
    peers = talk.peers
    out.add(_UP, [((peer.name,), int(peer.up)) for peer in peers])
    out.add(
        _AGE,
        [
            ((peer.name,), max(0, now_ns - peer.heard_ns) * 1e-9)
            for peer in peers
            if peer.heard_ns is not None
        ],
    )
    for name, family in _TOTALS.items():
        out.add(family, [((peer.name,), getattr(peer, name)) for peer in peers])
    out.add(_REFUSED, [((reason.value,), talk.refused_total[reason]) for reason in Refusal])
