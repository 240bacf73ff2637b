"""The POSIX shared-memory segment under a region: names, rights, size, locks.

Lives here: the system calls. Never here: what the words mean.
Each role (owner, agent) holds a lock on one byte of the segment for as long as it lives. The kernel
drops the lock with the process, however it died, also across PID namespaces: that, and not a PID
that may have been used again, tells a dead owner from a live one. A name is removed only by who
holds the owner's byte of what it stands for, so that two that start at once cannot remove each
other's.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import weakref
from pathlib import Path
from typing import Final

import posix_ipc

from shm.errors import RegionAbsent, RegionBusy, RegionError

PREFIX: Final = "lbd."
DIRECTORY: Final = Path("/dev/shm")
NAME_BYTES: Final = 200  # of NAME_MAX, 255
OWNER_BYTE: Final = 0
AGENT_BYTE: Final = 1
_FLOCK: Final = "@hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, len, pid


def file_name(service: str) -> str:
    """The segment's name for posix_ipc. Raises RegionError where it cannot be one."""
    # posix_ipc does not survive a NUL, and tells nothing of what is wrong with the others.
    if not service or "/" in service or "\0" in service or len(os.fsencode(service)) > NAME_BYTES:
        raise RegionError(
            f"{service!r} cannot name a region: 1 to {NAME_BYTES} bytes, no /, no NUL"
        )
    return f"/{PREFIX}{service}"


def present() -> list[str]:
    """Service names that have a segment on this machine, dead or alive."""
    return sorted(p.name.removeprefix(PREFIX) for p in DIRECTORY.glob(f"{PREFIX}*"))


class Segment:
    """An open, mapped segment. Close it on every path; the mapping goes with the last view."""

    def __init__(self, service: str, fd: int, size_bytes: int) -> None:
        self.service = service
        self._fd = fd
        self._roles: set[int] = set()
        # mmap keeps a descriptor for as long as views of it exist. It must not be one that holds
        # a role, or no `close` could drop the role.
        mapped = _reopen(fd)
        try:
            self.memory = mmap.mmap(mapped, size_bytes)
        finally:
            os.close(mapped)
        _open_segments.add(self)

    @classmethod
    def create(cls, service: str, size_bytes: int) -> Segment:
        """A new segment of mode 0600, its memory reserved, the owner's role taken.

        Raises RegionBusy where somebody else makes it at the same time, RegionError.
        """
        name = file_name(service)
        try:
            fd = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd
        except posix_ipc.ExistentialError:
            raise RegionBusy(f"shm {name} appeared while it was being created") from None
        except (OSError, posix_ipc.Error) as error:
            raise RegionError(f"cannot create shm {name}: {error}") from None
        # The role comes before the size: from here on nobody takes the segment for a dead one.
        if not _take(fd, OWNER_BYTE) or _replaced(fd, service):
            os.close(fd)
            raise RegionBusy(f"shm {name} was taken while it was being created")
        try:
            # ftruncate alone reserves nothing: a full /dev/shm would then be a SIGBUS much later.
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError as error:
            unlink(service)
            os.close(fd)
            if error.errno == errno.ENOSPC:
                raise RegionError(
                    f"/dev/shm is full: shm {name} needs {size_bytes} bytes; "
                    "free some, or run `python -m shm clean`"
                ) from None
            raise RegionError(f"cannot size shm {name}: {error}") from None
        seg = cls(service, fd, size_bytes)
        seg._roles.add(OWNER_BYTE)
        return seg

    @classmethod
    def open(cls, service: str) -> Segment:
        """Raises RegionAbsent where there is none, RegionError where the right is missing."""
        fd = _open(service)
        size_bytes = os.fstat(fd).st_size
        if size_bytes == 0:
            os.close(fd)
            raise RegionAbsent(f"shm {file_name(service)} is still being created")
        return cls(service, fd, size_bytes)

    def lock(self, byte: int) -> None:
        """Take a role for as long as this segment is open. Raises RegionBusy if it is taken."""
        if not _take(self._fd, byte):
            raise RegionBusy(f"shm {file_name(self.service)}: the role is taken")
        self._roles.add(byte)

    def locked(self, byte: int) -> bool:
        """Whether a live process holds that role, this one included."""
        return byte in self._roles or _held(self._fd, byte)

    def replaced(self) -> bool:
        """Whether the name now stands for another segment, or for none."""
        return _replaced(self._fd, self.service)

    def close(self) -> None:
        """Drop the roles held. The memory stays mapped while views of it exist."""
        if self._fd >= 0:
            _open_segments.discard(self)
            os.close(self._fd)
            self._fd = -1
            self._roles.clear()

    def _forked(self) -> None:
        """In a forked child: the roles stay with the parent.

        A lock belongs to the open file, which parent and child share: the child would keep a dead
        parent's role, and take a living one's away by closing.
        """
        own = _reopen(self._fd)
        os.dup2(own, self._fd, inheritable=False)
        os.close(own)
        self._roles.clear()


_open_segments: weakref.WeakSet[Segment] = weakref.WeakSet()


def _forked() -> None:
    for seg in list(_open_segments):
        seg._forked()


os.register_at_fork(after_in_child=_forked)


def unlink(service: str) -> None:
    """Remove the name; no error where it is gone already."""
    try:
        posix_ipc.unlink_shared_memory(file_name(service))
    except posix_ipc.ExistentialError:
        return
    except (OSError, posix_ipc.Error) as error:
        raise RegionError(f"cannot remove shm {file_name(service)}: {error}") from None


def rename(service: str, other: str) -> None:
    """Give a segment another name; whoever is attached stays. Raises RegionError."""
    try:
        os.rename(DIRECTORY / file_name(service)[1:], DIRECTORY / file_name(other)[1:])
    except OSError as error:
        raise RegionError(f"cannot rename shm {file_name(service)}: {error}") from None


def role_held(service: str, byte: int) -> bool:
    """Whether a live process holds that role, whatever is in the segment."""
    fd = _open(service)
    try:
        return _held(fd, byte)
    finally:
        os.close(fd)


def remove_dead(service: str) -> bool:
    """Remove what a dead owner left, whatever is in it; False where there is nothing.

    Raises RegionBusy where the owner lives.
    """
    try:
        fd = _open(service)
    except RegionAbsent:
        return False
    try:
        if not _take(fd, OWNER_BYTE):
            raise RegionBusy(f"shm {file_name(service)} belongs to a live process")
        if _replaced(fd, service):
            raise RegionBusy(f"shm {file_name(service)} was taken in the meantime")
        unlink(service)
    finally:
        os.close(fd)
    return True


def _open(service: str) -> int:
    name = file_name(service)
    try:
        return int(posix_ipc.SharedMemory(name).fd)
    except posix_ipc.ExistentialError:
        raise RegionAbsent(f"no shm {name}") from None
    except (OSError, posix_ipc.Error) as error:
        raise RegionError(f"cannot open shm {name}: {error}") from None


def _reopen(fd: int) -> int:
    """The same segment opened once more, whatever its name stands for by now."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


def _take(fd: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _held(fd: int, byte: int) -> bool:
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def _replaced(fd: int, service: str) -> bool:
    try:
        return os.stat(DIRECTORY / f"{PREFIX}{service}").st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return True


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
