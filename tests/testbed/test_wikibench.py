"""WikiBench traces: what they say, and an error that names the line for what they must not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.load.trace import TraceError, read_trace
from testbed.load.wikibench import read_wikibench

GOOD = (
    "929840891 1190146243.326 http://en.wikipedia.org/wiki/Main_Page -\n"
    "929840892 1190146243.325 http://en.wikipedia.org/w/index.php?title=A&action=edit -\n"
    "929840893 1190146243.400 http://en.wikipedia.org/wiki/B save\n"
    "929840894 1190146244.326 http://upload.wikimedia.org/a.png -\n"
)


def test_a_trace_is_a_plan_of_what_it_reads_and_not_of_what_it_saves(tmp_path):
    path = tmp_path / "trace.wb"
    path.write_text(GOOD)
    plan = read_wikibench(path)
    assert plan.queries == ["/wiki/Main_Page", "/w/index.php?title=A&action=edit", "/a.png"]
    np.testing.assert_allclose(np.diff(plan.planned_s), [0.0, 1.0], atol=1e-6)
    assert plan.planned_s[0] == pytest.approx(0.5)
    assert plan.at_rate(30.0).rate_per_s == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1 2.0 http://a/b", "3 fields"),
        ("x 2.0 http://a/b -", "counter"),
        ("1 soon http://a/b -", "not a number"),
        ("1 nan http://a/b -", "not finite"),
        ("1 1190146200.0 http://a/b -", "goes back"),
        ("1 1190146245.0 ftp://a/b -", "not http"),
        ("1 1190146245.0 http://[a/b -", "url"),
        ("1 1190146245.0 http://a/\x7fb -", "not a request target"),
        ("1 1190146245.0 http://a/b maybe", "flag"),
        ("", "1 fields"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, why):
    path = tmp_path / "trace.wb"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(TraceError, match=rf"trace\.wb:5: .*{why}"):
        read_wikibench(path)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "trace.wb"
    path.write_text("")
    with pytest.raises(TraceError, match=r"trace\.wb:1: needs requests"):
        read_wikibench(path)


@pytest.mark.parametrize("read", [read_trace, read_wikibench])
@given(content=st.binary(max_size=300))
def test_whatever_is_in_a_file_is_a_plan_or_an_error_that_names_a_line(read, content):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any"
        path.write_bytes(content)
        try:
            plan = read(path)
        except TraceError as error:
            said = str(error)
        else:
            said = f"{path}: {'a plan' * (len(plan) >= 2)}"
    assert said.startswith(f"{path}:")
    assert said[len(f"{path}:")].isdigit() or said.endswith("a plan")


@given(
    gaps_ms=st.lists(st.integers(0, 5000), min_size=2, max_size=30).filter(any),
    start_s=st.integers(0, 2**31),
)
def test_both_formats_say_the_same(gaps_ms, start_s):
    times_ms = np.cumsum(gaps_ms) + start_s * 1000
    if times_ms[0] == times_ms[-1]:
        times_ms = times_ms + np.arange(len(times_ms))
    with TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        lines = [f"{ms / 1000:.3f}" for ms in times_ms.tolist()]
        ours.write_text("time\tquery\n" + "".join(f"{at}\t/wiki/A\n" for at in lines))
        theirs.write_text("".join(f"{n} {at} http://w/wiki/A -\n" for n, at in enumerate(lines)))
        mine, other = read_trace(ours), read_wikibench(theirs)
    np.testing.assert_array_equal(mine.planned_s, other.planned_s)
    assert mine.queries == other.queries
