"""Where matches are played: processes of this machine, or a Ray cluster.

Lives here: handing matches out and collecting figures as they come, in any order.
Never here: which matches (`season`), what happens in one (`match`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from itertools import islice
from multiprocessing import get_context

from testbed.kernel import end_with_parent
from testbed.sim.league.content import engine_digest
from testbed.sim.league.match import Failure, Figures, Match, play

Played = tuple[Match, tuple[Figures | Failure, ...]]
Farm = Callable[[Sequence[Match]], Iterator[Played]]


class FarmError(RuntimeError):
    """The matches cannot be played there; the message says why."""


def here(jobs: int) -> Farm:
    """`jobs` processes of this machine, which end with the thread that plays.

    When a match raises, or Ctrl-C comes, those in play are still handed out; then it is raised.
    """

    def farm(matches: Sequence[Match]) -> Iterator[Played]:
        waiting: dict[Future[tuple[Figures | Failure, ...]], Match] = {}
        # Spawned, because a forked numba or torch may hang in its thread pool.
        with ProcessPoolExecutor(jobs, get_context("spawn"), _be_led, (os.getpid(),)) as pool:
            try:
                # The first to play compiles for all, where nobody has before.
                for together in (matches[-1:], matches[:-1]):
                    waiting |= {pool.submit(play, match): match for match in together}
                    for future in as_completed(tuple(waiting)):
                        yield waiting.pop(future), future.result()
            except (Exception, KeyboardInterrupt, SystemExit):
                pool.shutdown(cancel_futures=True)
                for future, match in waiting.items():
                    if not future.cancelled() and future.exception() is None:
                        yield match, future.result()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    return farm


def _be_led(parent_pid: int) -> None:
    """Ctrl-C goes to the whole group: the parent alone decides, and waits for what is in play."""
    end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cluster(address: str) -> Farm:
    """A Ray cluster, `auto` or host:port, whose nodes have this very version installed.

    It gets as many matches at once as it has cores: what it has is in play, and is handed out when
    a match raises or Ctrl-C comes, as `here` does. Raises FarmError without ray, without the
    cluster, or if a node's simulator is another.
    """
    try:
        import ray
    except ImportError as error:
        raise FarmError("--ray needs ray: pip install 'lbd[ray]'") from error

    def farm(matches: Sequence[Match]) -> Iterator[Played]:
        try:
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise FarmError(f"no Ray cluster at {address}: {error}") from error
        try:
            remote = ray.remote(num_cpus=1)(_play_same).remote
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            waiting = iter(matches)
            running = {remote(match, engine_digest()): match for match in islice(waiting, cores)}
            try:
                while running:
                    (done, *_), _ = ray.wait(list(running), num_returns=1)
                    match, played = running.pop(done), ray.get(done)
                    for following in islice(waiting, 1):
                        running[remote(following, engine_digest())] = following
                    yield match, played
            except (Exception, KeyboardInterrupt, SystemExit):
                for reference, match in running.items():
                    # Of several errors the first is raised.
                    try:
                        played = ray.get(reference)
                    except Exception:
                        continue
                    yield match, played
                raise
        finally:
            ray.shutdown()

    return farm


def _play_same(match: Match, engine: str) -> tuple[Figures | Failure, ...]:
    if engine_digest() != engine:
        raise FarmError("a node of the cluster has another version of the simulator")
    return play(match)
