"""Creation, recognition and recovery of a region: whose it is, and what is not one."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable

import pytest
from conftest import Child, Create, NewName

from shm import layout as lo
from shm import segment
from shm.errors import RegionAbsent, RegionBusy, RegionError
from shm.layout import Layout
from shm.region import Region
from shm.segment import Segment

LAYOUT = Layout(1, 4, 2)
OWNER = """
import sys
from shm.layout import Layout
from shm.region import Region
region = Region.create(sys.argv[1], Layout(1, 4, 2))
print(region.generation, flush=True)
sys.stdin.read()
"""


def raw(service: str, content: bytes) -> None:
    """A segment of that content that nobody owns."""
    path = segment.DIRECTORY / f"{segment.PREFIX}{service}"
    path.write_bytes(content)


def test_what_is_created_is_what_is_attached(create: Create) -> None:
    owner = create(workers=3, slots=70, reservoir=5, depth=2)
    other = Region.attach(owner.service)
    assert other.layout == owner.layout
    assert other.generation == owner.generation != 0
    assert other.owner_pid == os.getpid()
    assert other.owner_alive()
    assert len(other.words) * lo.WORD == owner.layout.total_bytes
    other.close()


def test_a_region_is_for_its_user_alone(create: Create) -> None:
    path = segment.DIRECTORY / f"{segment.PREFIX}{create().service}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_killed_owner_is_recognised_and_replaced(service: str, child: Child) -> None:
    owner = child(OWNER, service)
    attached = Region.attach(service)
    assert attached.owner_alive()
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert not attached.owner_alive()
    assert not attached.segment.replaced()
    successor = Region.create(service, LAYOUT)
    assert successor.generation != attached.generation
    assert attached.segment.replaced()
    assert not successor.segment.replaced()
    attached.close()
    successor.remove()


def test_a_live_owner_is_not_replaced_and_named(service: str, child: Child) -> None:
    owner = child(OWNER, service)
    before = Region.attach(service)
    with pytest.raises(RegionBusy, match=f"pid {owner.pid}"):
        Region.create(service, LAYOUT)
    assert not before.segment.replaced()
    assert before.owner_alive()
    before.close()


def test_a_maker_that_has_no_size_yet_is_alive_all_the_same(service: str) -> None:
    raw(service, b"")
    fd = os.open(segment.DIRECTORY / f"{segment.PREFIX}{service}", os.O_RDWR)
    assert segment._take(fd, segment.OWNER_BYTE)
    with pytest.raises(RegionBusy):
        Region.create(service, LAYOUT)
    os.close(fd)
    Region.create(service, LAYOUT).remove()


def start(service: str, gate: threading.Barrier, won: list[Region]) -> None:
    gate.wait()
    try:
        won.append(Region.create(service, LAYOUT))
    except RegionBusy:
        return


def test_of_owners_that_start_at_once_one_wins_and_keeps_its_name(new_name: NewName) -> None:
    for _ in range(20):
        service = new_name()
        raw(service, b"left by a dead owner")
        gate, won = threading.Barrier(4), list[Region]()
        threads = [threading.Thread(target=start, args=(service, gate, won)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # All may be told to try again; two may not both believe that it is theirs.
        assert len(won) <= 1
        for region in won:
            assert not region.segment.replaced()
            region.remove()


def test_replaced_tells_a_removed_name_and_another_segment(service: str) -> None:
    first = Region.create(service, LAYOUT)
    attached = Region.attach(service)
    assert not attached.segment.replaced()
    first.remove()
    assert attached.segment.replaced()
    second = Region.create(service, LAYOUT)
    assert attached.segment.replaced()
    attached.close()
    second.remove()


def test_removing_does_not_take_a_successors_name(service: str) -> None:
    first = Region.create(service, LAYOUT)
    segment.unlink(service)
    second = Region.create(service, LAYOUT)
    first.remove()
    assert not second.segment.replaced()
    second.remove()


def test_nothing_and_half_made_regions_are_worth_waiting_for(service: str) -> None:
    with pytest.raises(RegionAbsent, match="no shm"):
        Region.attach(service)
    raw(service, b"")
    with pytest.raises(RegionAbsent, match="still being created"):
        Region.attach(service)
    raw(service, bytes(LAYOUT.total_bytes))
    with pytest.raises(RegionAbsent, match="still being created"):
        Region.attach(service)


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (lo.H_MAGIC, 1234, "not a region of ours"),
        (lo.H_VERSION, lo.VERSION + 1, f"layout version {lo.VERSION + 1}, not {lo.VERSION}"),
        (lo.H_SLOTS, 5000, "slots is 5000"),
        (lo.H_DEPTH, 0, "depth is 0"),
        (lo.H_SLOTS, 1000, "its header tells"),
    ],
)
def test_a_header_that_is_wrong_is_told(
    create: Create, word: int, value: int, message: str
) -> None:
    region = create()
    region.words[word] = value
    with pytest.raises(RegionError, match=message) as caught:
        Region.attach(region.service)
    assert not isinstance(caught.value, RegionAbsent)


def test_a_region_that_is_not_ready_is_waited_for(create: Create) -> None:
    region = create()
    region.words[lo.H_READY] = 0
    with pytest.raises(RegionAbsent, match="still being created"):
        Region.attach(region.service)


def test_a_truncated_region_is_refused_before_it_is_read(create: Create) -> None:
    region = create()
    path = segment.DIRECTORY / f"{segment.PREFIX}{region.service}"
    os.truncate(path, region.layout.total_bytes - lo.PAGE)
    with pytest.raises(RegionError, match="its header tells"):
        Region.attach(region.service)
    os.truncate(path, 100)
    with pytest.raises(RegionError, match="too small"):
        Region.attach(region.service)


def test_garbage_is_not_waited_for_and_gives_way_to_an_owner(service: str) -> None:
    raw(service, os.urandom(4097))
    with pytest.raises(RegionError, match="not a region of ours") as caught:
        Region.attach(service)
    assert not isinstance(caught.value, RegionAbsent)
    Region.create(service, LAYOUT).remove()


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 300])
def test_a_name_that_cannot_be_one_is_an_error_and_not_a_crash(name: str) -> None:
    with pytest.raises(RegionError, match="cannot name a region"):
        Region.attach(name)


def test_a_full_dev_shm_is_told_at_once_and_leaves_nothing(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # posix_fallocate is replaced: to fill a shared /dev/shm would hurt whoever else uses it.
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RegionError, match="/dev/shm is full") as caught:
        Region.create(service, LAYOUT)
    assert f"needs {LAYOUT.total_bytes} bytes" in str(caught.value)
    assert service not in segment.present()


LIMITED = """
import resource, sys
from shm.errors import RegionError
from shm.layout import Layout
from shm.region import Region
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Region.create(sys.argv[1], Layout(1, 4, 2))
except RegionError as error:
    print(error, flush=True)
"""


def test_a_size_that_the_kernel_refuses_is_an_error_and_leaves_nothing(
    service: str, child: Child
) -> None:
    assert LAYOUT.total_bytes > resource.getpagesize()
    assert child(LIMITED, service).wait() == 0
    assert service not in segment.present()


def test_a_region_never_comes_with_unreserved_memory(create: Create) -> None:
    region = create(workers=4, slots=64, reservoir=64)
    path = segment.DIRECTORY / f"{segment.PREFIX}{region.service}"
    assert path.stat().st_blocks * 512 >= region.layout.total_bytes


def test_a_role_ends_with_close_although_views_live_on(create: Create) -> None:
    region = create()
    other = Segment.open(region.service)
    assert other.locked(segment.OWNER_BYTE)
    region.close()
    assert not other.locked(segment.OWNER_BYTE)
    assert region.generation
    other.close()


def test_a_name_too_long_for_the_header_leaves_nothing_behind(service: str) -> None:
    name = service.ljust(lo.NAME_BYTES + 1, "x")
    try:
        with pytest.raises(RegionError, match="does not fit"):
            Region.create(name, LAYOUT)
        assert name not in segment.present()
    finally:
        segment.unlink(name)


def test_the_owner_finds_itself_alive(create: Create) -> None:
    assert create().owner_alive()


def forked(body: Callable[[], bool]) -> bool:
    """What `body` says in a forked child, which is gone afterwards."""
    pid = os.fork()
    if pid == 0:
        said = False
        try:
            said = body()
        finally:
            os._exit(0 if said else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_does_not_take_its_parents_role_away(create: Create) -> None:
    region = create()

    def close() -> bool:
        alive = region.owner_alive()
        region.close()
        return alive

    assert forked(close), "the child took its parent for dead"
    assert Region.attach(region.service).owner_alive()


def test_a_forked_child_does_not_keep_a_killed_parents_role(service: str) -> None:
    """The owner is killed and a process that it forked lives on: the region is dead."""
    hold, release = os.pipe()
    told, tell = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            region = Region.create(service, LAYOUT)
            if os.fork() == 0:
                os.close(release)
                os.write(tell, b"1" if region.owner_alive() else b"0")
                os.read(hold, 1)
                os._exit(0)
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(tell)
        alive = os.read(told, 1)
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        assert alive == b"1"
        assert not Region.attach(service).owner_alive()
        Region.create(service, LAYOUT).close()
    finally:
        # The last writing end but the dead owner's: what it forked reads the end and goes.
        for end in (told, hold, release):
            os.close(end)
