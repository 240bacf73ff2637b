"""On a server's machine: answers GET /stats with its busy workers and its CPU, as probing needs.

    python -m testbed.experiments.sensor SCOREBOARD HOST PORT

Lives here: the process. Never here: what is made of the answers. It runs in the server's cgroup
and network namespace: what probing costs, the server pays.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from testbed.experiments.scoreboard import Scoreboard
from testbed.kernel import end_with_parent

_MOUNT = Path("/sys/fs/cgroup")
_HEAD_MAX_BYTES = 4096


def cpu_s() -> float:
    """CPU seconds of this process's cgroup so far, version 1 or 2; cgroups(7)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if "cpuacct" in names:
            for mount in (controllers, "cpuacct"):
                usage = _MOUNT / mount / path.lstrip("/") / "cpuacct.usage"
                if usage.exists():
                    return int(usage.read_text()) / 1e9
        if number == "0":
            stat = _MOUNT / path.lstrip("/") / "cpu.stat"
            if stat.exists() and "usage_usec" in (text := stat.read_text()):
                return int(dict(row.split() for row in text.splitlines())["usage_usec"]) / 1e6
    return sum(os.times()[:2])


async def _serve(
    board: Scoreboard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            said = {
                "in_service": board.busy(),
                "busy_cpu_s": round(cpu_s(), 6),
                "at_s": time.monotonic(),
                "asking_s": time.process_time(),
            }
            body = json.dumps(said)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode("ascii"))
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        writer.close()


async def _run(board: Scoreboard, host: str, port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(partial(_serve, board), host, port, limit=_HEAD_MAX_BYTES)
    async with server:
        port = server.sockets[0].getsockname()[1]
        print(f"ready: sensor on {host}:{port}", flush=True)
        await stop.wait()


def main(argv: Sequence[str]) -> int:
    """Until SIGTERM, or until whoever started it ends."""
    end_with_parent(os.getppid())
    path, host, port = argv
    board = Scoreboard(Path(path))
    try:
        asyncio.run(_run(board, host, int(port)))
    finally:
        board.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
