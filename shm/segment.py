"""The POSIX shared-memory segment under a region: names, rights, size, locks.

Lives here: the system calls. Never here: what the words mean.
Each role (owner, agent) holds a lock on one byte of the segment for as long as it lives. The kernel
drops the lock with the process, however it died, also across PID namespaces: that, and not a PID
that may have been used again, tells a dead owner from a live one.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final

import posix_ipc

from shm.errors import RegionAbsent, RegionBusy, RegionError

PREFIX: Final = "lbd."
DIRECTORY: Final = Path("/dev/shm")
OWNER_BYTE: Final = 0
AGENT_BYTE: Final = 1
_FLOCK: Final = "@hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, len, pid


def file_name(service: str) -> str:
    """The segment's name for posix_ipc."""
    return f"/{PREFIX}{service}"


def present() -> list[str]:
    """Service names that have a segment on this machine, dead or alive."""
    return sorted(p.name.removeprefix(PREFIX) for p in DIRECTORY.glob(f"{PREFIX}*"))


class Segment:
    """An open, mapped segment. Close it on every path; the mapping goes with the last view."""

    def __init__(self, service: str, fd: int, size_bytes: int) -> None:
        self.service = service
        self._fd = fd
        self.memory = mmap.mmap(fd, size_bytes)

    @classmethod
    def create(cls, service: str, size_bytes: int) -> Segment:
        """A new segment of mode 0600, its memory reserved. Raises RegionError."""
        name = file_name(service)
        try:
            raw = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.ExistentialError:
            raise RegionBusy(f"shm {name} appeared while it was being created") from None
        except (OSError, posix_ipc.Error) as error:
            raise RegionError(f"cannot create shm {name}: {error}") from None
        try:
            # ftruncate alone reserves nothing: a full /dev/shm would then be a SIGBUS much later.
            os.posix_fallocate(raw.fd, 0, size_bytes)
        except OSError as error:
            posix_ipc.unlink_shared_memory(name)
            os.close(raw.fd)
            if error.errno == errno.ENOSPC:
                raise RegionError(
                    f"/dev/shm is full: shm {name} needs {size_bytes} bytes; "
                    "free some, or run `python -m shm clean`"
                ) from None
            raise RegionError(f"cannot size shm {name}: {error}") from None
        return cls(service, raw.fd, size_bytes)

    @classmethod
    def open(cls, service: str) -> Segment:
        """Raises RegionAbsent where there is none, RegionError where the right is missing."""
        name = file_name(service)
        try:
            raw = posix_ipc.SharedMemory(name)
        except posix_ipc.ExistentialError:
            raise RegionAbsent(f"no shm {name}") from None
        except (OSError, posix_ipc.Error) as error:
            raise RegionError(f"cannot open shm {name}: {error}") from None
        size_bytes = os.fstat(raw.fd).st_size
        if size_bytes == 0:
            os.close(raw.fd)
            raise RegionAbsent(f"shm {name} is still being created")
        return cls(service, raw.fd, size_bytes)

    def lock(self, byte: int) -> None:
        """Take a role for as long as this segment is open. Raises RegionBusy if it is taken."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError):
            raise RegionBusy(f"shm {file_name(self.service)}: the role is taken") from None

    def locked(self, byte: int) -> bool:
        """Whether another process holds that role."""
        found = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)

    def replaced(self) -> bool:
        """Whether the name now stands for another segment, or for none."""
        try:
            return (
                os.stat(DIRECTORY / f"{PREFIX}{self.service}").st_ino != os.fstat(self._fd).st_ino
            )
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Drop the roles held. The memory stays mapped while views of it exist."""
        if self._fd >= 0:
            # mmap keeps a duplicate of the descriptor, and with it the lock: closing is not enough.
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_UNLCK, 0, 0, 0, 0))
            os.close(self._fd)
            self._fd = -1


def unlink(service: str) -> None:
    """Remove the name; no error where it is gone already."""
    try:
        posix_ipc.unlink_shared_memory(file_name(service))
    except posix_ipc.ExistentialError:
        return
    except (OSError, posix_ipc.Error) as error:
        raise RegionError(f"cannot remove shm {file_name(service)}: {error}") from None


def _flock(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
