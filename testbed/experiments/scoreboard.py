"""Apache's scoreboard: which workers are at work, read from the file that Apache maps.

Lives here: the layout (httpd 2.4's scoreboard.h on Linux, 64 bits), the count. Never here: who
asks, where the file is. It is mapped read-only; Apache does not notice.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

_APR_SIZE = 8
"""apr_shm puts the segment's size before what it holds."""

_STATUS = {
    0: "dead",
    1: "starting",
    2: "ready",
    3: "reading",
    4: "writing",
    5: "keepalive",
    6: "logging",
    7: "dns",
    8: "closing",
    9: "graceful",
    10: "idle-kill",
}
_BUSY = frozenset({3, 4, 5, 6, 7, 8, 9})
"""What mod_status counts as busy."""

_Times = ctypes.c_long * 4


class _Global(ctypes.Structure):
    _fields_ = (
        ("server_limit", ctypes.c_int),
        ("thread_limit", ctypes.c_int),
        ("running_generation", ctypes.c_int),
        ("restart_time", ctypes.c_int64),
        ("times", _Times),
    )


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_int),
        ("generation", ctypes.c_int),
        ("quiescing", ctypes.c_char),
        ("not_accepting", ctypes.c_char),
        ("connections", ctypes.c_uint32),
        ("write_completion", ctypes.c_uint32),
        ("lingering_close", ctypes.c_uint32),
        ("keep_alive", ctypes.c_uint32),
        ("suspended", ctypes.c_uint32),
        ("bucket", ctypes.c_int),
    )


class _NewerProcess(ctypes.Structure):
    """As later releases of 2.4 have it."""

    _fields_ = (*_Process._fields_, ("wait_io", ctypes.c_uint32))


class _Worker(ctypes.Structure):
    _fields_ = (
        ("tid", ctypes.c_ulong),
        ("thread_num", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("generation", ctypes.c_int),
        ("status", ctypes.c_ubyte),
        ("conn_count", ctypes.c_ushort),
        ("conn_bytes", ctypes.c_int64),
        ("access_count", ctypes.c_ulong),
        ("bytes_served", ctypes.c_int64),
        ("my_access_count", ctypes.c_ulong),
        ("my_bytes_served", ctypes.c_int64),
        ("start_time", ctypes.c_int64),
        ("stop_time", ctypes.c_int64),
        ("last_used", ctypes.c_int64),
        ("times", _Times),
        ("client", ctypes.c_char * 32),
        ("request", ctypes.c_char * 64),
        ("vhost", ctypes.c_char * 32),
        ("protocol", ctypes.c_char * 16),
        ("duration", ctypes.c_int64),
        ("client64", ctypes.c_char * 64),
    )


class ScoreboardError(Exception):
    """The file is no scoreboard that this layout fits; the message names it."""


class Scoreboard:
    """One server's, mapped until `close`.

    Raises ScoreboardError where the file's size is not that of this layout, OSError where it
    cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < _APR_SIZE + ctypes.sizeof(_Global):
                raise ScoreboardError(f"{path}: {size} bytes are no scoreboard")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = _Global.from_buffer_copy(self._map, _APR_SIZE)
        workers = head.server_limit * head.thread_limit
        after = _APR_SIZE + ctypes.sizeof(_Global)
        for process in (_Process, _NewerProcess):
            first = after + head.server_limit * ctypes.sizeof(process)
            end = first + workers * ctypes.sizeof(_Worker)
            if workers > 0 and end == size:
                break
        else:
            self._map.close()
            raise ScoreboardError(
                f"{path}: {size} bytes do not fit {head.server_limit} x {head.thread_limit} workers"
            )
        self.workers = workers
        status = first + _Worker.status.offset
        self._statuses = slice(status, end, ctypes.sizeof(_Worker))

    def busy(self) -> int:
        """Workers that have a connection."""
        return sum(status in _BUSY for status in self._map[self._statuses])

    def statuses(self) -> dict[str, int]:
        """Workers by what they do, those that occur."""
        counts: dict[str, int] = {}
        for status in self._map[self._statuses]:
            name = _STATUS.get(status, str(status))
            counts[name] = counts.get(name, 0) + 1
        return counts

    def close(self) -> None:
        """May be called twice."""
        self._map.close()
