"""Control groups: both versions are found and written to; what is inside ends with the group."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.lab.cgroup import Group, Hierarchy
from testbed.lab.driver import LabError

V1 = (
    "30 25 0:26 / {top}/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "31 25 0:27 / {top}/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n"
    "36 25 0:30 / {top}/memory rw - cgroup cgroup rw,memory\n"
)
V1_TOGETHER = "30 25 0:26 / {top}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "35 25 0:31 / {top}/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
ELSE = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def unified(tmp_path: Path, controllers: str) -> Path:
    top = tmp_path / "unified"
    top.mkdir()
    (top / "cgroup.controllers").write_text(controllers)
    (top / "cgroup.subtree_control").write_text("memory\n")
    return top


def test_version_2_where_it_has_the_controller(tmp_path: Path) -> None:
    top = unified(tmp_path, "cpuset cpu memory\n")
    found = Hierarchy.detect((ELSE + V1 + V2).format(top=tmp_path))
    assert found == Hierarchy(2, (top,))


def test_version_1_where_version_2_has_it_not(tmp_path: Path) -> None:
    unified(tmp_path, "hugetlb\n")
    found = Hierarchy.detect((ELSE + V2 + V1).format(top=tmp_path))
    assert found == Hierarchy(1, (tmp_path / "cpu", tmp_path / "cpuacct"))


def test_both_controllers_in_one_tree(tmp_path: Path) -> None:
    found = Hierarchy.detect(V1_TOGETHER.format(top=tmp_path))
    assert found == Hierarchy(1, (tmp_path / "cpu,cpuacct",))


def test_the_time_of_all_is_the_root_s_or_the_sum_below_it(tmp_path: Path) -> None:
    first = Hierarchy(1, (tmp_path / "cpu", tmp_path / "cpuacct"))
    (tmp_path / "cpuacct").mkdir()
    (tmp_path / "cpuacct" / "cpuacct.usage").write_text("7000000\n")
    assert first.spent_ns() == 7_000_000
    top = unified(tmp_path, "cpu\n")
    # Ticks, which tell another time.
    (top / "cpu.stat").write_text("usage_usec 900\n")
    for name, spent_us in (("init.scope", 30), ("system.slice", 400)):
        (top / name).mkdir()
        (top / name / "cpu.stat").write_text(f"usage_usec {spent_us}\nuser_usec 1\n")
    assert Hierarchy(2, (top,)).spent_ns() == 430_000


def test_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no control groups"):
        Hierarchy.detect(ELSE)


def test_version_2_says_max_and_quota(tmp_path: Path) -> None:
    top = unified(tmp_path, "cpu\n")
    hierarchy = Hierarchy(2, (top,))
    hierarchy.open_to_groups(hierarchy.tops)
    assert (top / "cgroup.subtree_control").read_text() == "+cpu"
    group = hierarchy.family("lab")
    group.create()
    (top / "lab" / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n")
    group.set_cores(0.1)
    assert (top / "lab" / "cpu.max").read_text() == "2000 20000"
    group.set_cores(None)
    assert (top / "lab" / "cpu.max").read_text() == "max 20000"
    assert group.cpu_ns() == 1_500_000


def test_a_quota_below_what_the_kernel_takes_has_a_longer_period(tmp_path: Path) -> None:
    group = Group(2, (tmp_path,))
    group.set_cores(0.02)
    assert (tmp_path / "cpu.max").read_text() == "1000 50000"


@pytest.fixture
def group() -> Iterator[Group]:
    """A real one, of whichever version this host has."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make control groups")
    try:
        hierarchy = Hierarchy.detect()
        hierarchy.open_to_groups(hierarchy.tops)
    except LabError as error:
        pytest.skip(str(error))
    made = hierarchy.family(f"lbd-test-{secrets.token_hex(4)}")
    made.create()
    yield made
    made.remove()


def busy(group: Group) -> subprocess.Popen[bytes]:
    """A shell in the group that makes children, which do nothing but count."""
    join = "; ".join(f"echo 0 > {door}" for door in group.doors)
    script = f"set -e; {join}; echo; (while :; do :; done) & while :; do :; done"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_all_inside_ends_with_the_group(group: Group) -> None:
    child = busy(group)
    assert child.pid in group.pids()
    group.remove()
    assert child.wait(60) == -9
    assert child.stdout is not None
    # Its child had the pipe too.
    assert child.stdout.read() == b""
    child.stdout.close()
    assert not group.exists


def test_a_quota_holds_and_is_lifted(group: Group) -> None:
    stat = group.folders[0] / "cpu.stat"

    def throttled() -> int:
        fields = stat.read_text().split()
        return int(fields[fields.index("nr_throttled") + 1])

    group.set_cores(0.05)
    child = busy(group)
    try:
        while not throttled():
            assert child.poll() is None
        # Throttled by its own use: of a period it has had its quota at least once.
        assert group.cpu_ns() >= 1_000_000
        group.set_cores(None)
        before_ns = group.cpu_ns()
        while group.cpu_ns() < before_ns + 20_000_000:
            assert child.poll() is None
    finally:
        group.remove()
        child.wait(60)
        assert child.stdout is not None
        child.stdout.close()


def test_anothers_is_not_taken(group: Group) -> None:
    with pytest.raises(FileExistsError):
        Group(group.version, group.folders).create()
