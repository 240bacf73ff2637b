"""Writes lines without ever waiting for who reads them.

Lives here: the bounded queue before a slow disk or reader, its thread, the form of events. Never
here: what a flow's line says (`lbd.flow_log`).
A line is put into a queue, and a thread writes what has gathered every few milliseconds. While that
thread waits for a disk, a pipe or a journal, the loop goes on; what does not fit is dropped,
counted, and told once there is room.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Final

from config.logs import Log

FLUSH_S: Final = 0.05
CLOSE_S: Final = 1.0
"""How long a process that ends may wait for its last lines."""

_PRIORITY: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class LineWriter:
    """`path` None: standard error. Raises OSError where the file cannot be opened."""

    def __init__(self, path: str | None, pending_lines: int) -> None:
        self._path = path
        self._pending: deque[str] = deque()
        self._most = pending_lines
        self._fd = _open(path)
        self._swap = Lock()
        self._over = Event()
        self._told_total = 0
        self.notice: Callable[[str], str] = str
        """Makes a line of this one's own words."""
        # One writer each: this one the loop, the other the thread.
        self._refused_total = 0
        self._unwritten_total = 0
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped_total(self) -> int:
        """Lines that found no room, or could not be written."""
        return self._refused_total + self._unwritten_total

    def put(self, line: str) -> bool:
        """False where it was dropped. Never waits."""
        if len(self._pending) >= self._most:
            self._refused_total += 1
            return False
        self._pending.append(line)
        return True

    def reopen(self) -> None:
        """Write to a new file of the same name: the old one was moved away. Raises OSError."""
        if self._path is None:
            return
        fresh = _open(self._path)
        with self._swap:
            old, self._fd = self._fd, fresh
        os.close(old)

    def close(self) -> None:
        """Write what is left, but wait no longer than CLOSE_S."""
        self._over.set()
        self._thread.join(CLOSE_S)
        if self._path is not None and not self._thread.is_alive():
            os.close(self._fd)

    def _run(self) -> None:
        while not self._over.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        pending = self._pending
        while pending:
            lines = [pending.popleft() for _ in range(min(len(pending), 1000))]
            dropped = self.dropped_total
            if dropped > self._told_total:
                lines.append(self.notice(f"{dropped - self._told_total} log lines dropped"))
            left = self._write("".join(f"{line}\n" for line in lines).encode())
            if not left:
                self._told_total = dropped
            else:
                # The last line was only to tell of others.
                self._unwritten_total += left.count(b"\n") - (dropped > self._told_total)

    def _write(self, data: bytes) -> bytes:
        """What is left: a full disk, a reader that has gone."""
        while data:
            with self._swap:
                try:
                    data = data[os.write(self._fd, data) :]
                except OSError:
                    break
        return data


def _open(path: str | None) -> int:
    if path is None:
        return sys.stderr.fileno()
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


class Events(logging.Handler):
    """Events of this process, `name`, as lines."""

    def __init__(self, writer: LineWriter, config: Log, name: str) -> None:
        super().__init__()
        self._writer = writer
        self._json = config.format == "json"
        self._journal = config.file is None and "JOURNAL_STREAM" in os.environ
        self._name = name

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        for line in [text] if self._json else text.splitlines():
            self._writer.put(self._line(record.created, record.levelno, line))

    def warning(self, text: str) -> str:
        """The line of an event that is told past the queue."""
        return self._line(time.time(), logging.WARNING, text)

    def _line(self, unix_s: float, level: int, text: str) -> str:
        if self._json:
            event = {
                "time": timestamp(unix_s),
                "level": logging.getLevelName(level).lower(),
                "process": self._name,
                "message": text,
            }
            return json.dumps(event, ensure_ascii=False)
        if self._journal:
            # The journal has the time, and reads the priority from the front (sd-daemon(3)).
            priority = next(p for at, p in _PRIORITY if level >= at)
            return f"<{priority}>{self._name} {text}"
        return f"{timestamp(unix_s)} {self._name} {text}"


def timestamp(unix_s: float) -> str:
    """RFC 3339 with milliseconds, UTC."""
    whole = int(unix_s)
    day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{day_and_time}.{int((unix_s - whole) * 1e3):03d}Z"


def start(config: Log, name: str) -> LineWriter:
    """Log this process's events; returns the writer, for flows and `reopen`. Raises OSError."""
    writer = LineWriter(config.file, config.pending_lines)
    events = Events(writer, config, name)
    writer.notice = events.warning
    logging.basicConfig(level=logging.INFO, handlers=[events], force=True)
    return writer
