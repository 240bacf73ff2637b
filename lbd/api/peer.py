"""Who is at the other end of a unix socket, as the kernel says, and what they may do.

Lives here: credentials and levels. Never here: which request needs which level (`lbd.api.routes`).
"""

from __future__ import annotations

import enum
import errno
import grp
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h, Linux 4.13; the socket module lacks it
_UCRED: Final = struct.Struct("iii")
_GROUPS_BYTES: Final = 1024  # what getsockopt takes at most here: 256 groups


class Level(enum.IntEnum):
    READ = 1
    OPERATE = 2


@dataclass(frozen=True)
class Peer:
    """Of the process that connected, at that moment."""

    uid: int
    groups: frozenset[int]


def peer(sock: socket.socket) -> Peer:
    """Raises OSError for a socket that is not a connected unix one."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(raw)
    try:
        listed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        listed = b""  # in more groups than we can see: the first one counts
    groups = struct.unpack(f"{len(listed) // 4}I", listed)
    return Peer(uid, frozenset((gid, *groups)))


def level(of: Peer, operators: int | None) -> Level:
    """`operators`: the group that may change things besides root and the daemon's own user."""
    if of.uid in (0, os.geteuid()) or operators in of.groups:
        return Level.OPERATE
    return Level.READ


def group_id(name: str) -> int:
    """Raises OSError where there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(f"there is no group {name}") from None
