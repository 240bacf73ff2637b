"""Where something listens or is connected to: TCP or UDP host and port, or a Unix socket.

Lives here: the text form of an address and its canonical form, so that equal means equal.
Never here: name resolution and sockets; whoever connects resolves `host` itself.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

FORMS = "host:port, [v6]:port, unix:/path or udp:host:port"
MAX_UNIX_BYTES = 107  # sun_path holds 108, the last of them the terminating NUL
MAX_HOST_CHARS = 253

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
# Resolvers read a name that ends like this as an IPv4 address in some old notation ("127.1").
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")

Kind = Literal["tcp", "udp", "unix"]


@dataclass(frozen=True)
class Address:
    """A TCP, UDP or Unix address; make one with `Address.parse`, which alone checks its parts.

    kind "tcp" or "udp": `host` is an IPv4 or IPv6 literal in canonical form, without brackets, or a
    lower-case host name; `port` is 1 to 65535; `path` is "".
    kind "unix": `path` is absolute, at most `MAX_UNIX_BYTES` bytes; `host` is "", `port` is 0.

    `Address.parse(str(a)) == a` holds for every address that `parse` has returned.
    """

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` names in one of `FORMS`.

        Raises ValueError saying what is wrong with which part; never resolves a name.
        """
        if text.startswith("unix:"):
            return cls(kind="unix", path=_unix_path(text.removeprefix("unix:")))
        kind: Literal["tcp", "udp"] = "udp" if text.startswith("udp:") else "tcp"
        host, colon, port = text.removeprefix("udp:").rpartition(":")
        if not colon:
            raise ValueError("there is no port")
        if host.startswith("[") and host.endswith("]"):
            host = _ipv6(host[1:-1])
        elif ":" in host:
            raise ValueError("an IPv6 address goes in brackets, as in [::1]:80")
        else:
            host = _ipv4_or_name(host)
        return cls(kind=kind, host=host, port=_port(port))

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        prefix = "udp:" if self.kind == "udp" else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{prefix}{host}:{self.port}"


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError(f'the port "{text}" is not a number from 1 to 65535')
    return int(text)


def _unix_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("the path of a Unix socket is absolute and names a file")
    if not path.isprintable():
        raise ValueError("the path of a Unix socket has unprintable characters")
    size_bytes = len(path.encode())
    if size_bytes > MAX_UNIX_BYTES:
        raise ValueError(
            f"the path of a Unix socket has at most {MAX_UNIX_BYTES} bytes, this one {size_bytes}"
        )
    return path


def _ipv6(text: str) -> str:
    _, percent, zone = text.partition("%")
    try:
        host = str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f'"{text}" is not an IPv6 address') from None
    if percent and not _ZONE.fullmatch(zone):
        raise ValueError(f'"{zone}" is not the name of a network interface')
    return host


def _ipv4_or_name(text: str) -> str:
    host = text.lower()
    if not host:
        raise ValueError("there is no host; to listen everywhere, write 0.0.0.0 or [::]")
    labels = host.removesuffix(".").split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f'"{text}" is not an IPv4 address') from None
    if len(host) > MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f'"{text}" is neither an IPv4 address nor a host name')
    return host
