"""Figures of runs whose latencies are known, and the page that shows them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from testbed.experiments import programs, schema
from testbed.experiments.figures import ALL, busy_by_group, rows, used_by_server
from testbed.experiments.inventory import of_form, preface
from testbed.experiments.page import write, write_docs
from testbed.experiments.report import compared, windows_of
from testbed.experiments.store import Kept, Run, Store
from testbed.experiments.studies.probing import errors_of, quality
from testbed.experiments.studies.steps import intervals_ms
from testbed.experiments.truth import SEEN, TRUTH
from testbed.experiments.verdict import NO_VERDICT
from testbed.lab.topology import find, load_topology

TOPOLOGY = load_topology(find("smoke"))

FILE = """\
title: known
topology: smoke
methods: [sed, lsq, agent]
cases:
  a:
    title: the case
    site: wiki-apcu
    traffic: {kind: day, load: 0.5}
    windows_s: [5]
    beside: [mpg/11-I-wiki, mpg/11-I-static]
  b:
    title: the other
    site: wiki-apcu
    traffic: {kind: day, load: 0.6}
short: {run_s: 10, repetitions: 3, settle_s: 1}
full: {run_s: 10, repetitions: 3}
"""


ABOUT = ("why_not", "balancer_cpu_s", "lag_p99_s", "load", "began_s")


def requests(latency_s: float, failed: int = 0) -> pl.DataFrame:
    """Half a request a tenth of a second; static pages take a tenth of the wiki's."""
    count = 100
    planned_s = np.arange(count) * 0.1
    page = ["wiki" if index % 2 else "static" for index in range(count)]
    latency = [latency_s * (1 if kind == "wiki" else 0.1) for kind in page]
    outcome = ["reset" if index >= count - failed else "ok" for index in range(count)]
    return pl.DataFrame(
        {"planned_s": planned_s, "latency_s": latency, "outcome": outcome, "page": page}
    )


def keep(
    store: Store, case: str, method: str, number: int, table: pl.DataFrame, why_not: str = ""
) -> Kept:
    """A run in which small1 was half busy and large1 not at all."""
    truth = [
        (at, server, busy, at * share, 0.1)
        for at in np.arange(0, 11, 0.5).tolist()
        for server, busy, share in (("small1", 4, 0.05), ("large1", 1, 0.0))
    ]
    content = {"topology": TOPOLOGY.model_dump(mode="json"), "rate_per_s": 10.0}
    tables = {
        "requests": table,
        "truth": pl.DataFrame(truth, schema=TRUTH, orient="row"),
        "seen": pl.DataFrame([], schema=SEEN),
    }
    about = {
        "why_not": [why_not] if why_not else [],
        "balancer_cpu_s": 0.02,
        "lag_p99_s": 0.001,
        "load": 0.55,
    }
    return store.put(Run(case, method, number, content), tables, about)


@pytest.fixture
def store(tmp_path) -> Store:
    found = Store(tmp_path / "known")
    for case in ("a", "b"):
        for number, sed_s in enumerate((0.1, 0.2, 0.3)):
            keep(found, case, "sed", number, requests(sed_s))
            keep(found, case, "lsq", number, requests(2 * sed_s, failed=10))
            keep(found, case, "agent", number, requests(sed_s / 2))
    return found


def test_ratios_are_paired_and_failures_count_beside(store):
    windows = {"a": [(1.0, 10.0), (1.0, 5.0), (5.0, 10.0)], "b": [(1.0, 10.0)]}
    found = {(r.case, r.window, r.page, r.method): r for r in rows(list(store.runs()), windows, 40)}
    sed = found["a", (1.0, 10.0), "wiki", "sed"]
    assert sed.seconds["mean"].estimate == pytest.approx(0.2)
    assert (sed.repetitions, sed.requests, sed.failed) == (3, 3 * 45, 0)
    lsq = found["a", (1.0, 10.0), "wiki", "lsq"]
    ratios = [lsq.ratio[figure] for figure in ("answered_mean", "p50", "mean", "p99")]
    estimates = [ratio.estimate for ratio in ratios if ratio is not None]
    # Failing gains nothing: each failure is 40 s.
    mean_s = (40 * 0.4 + 5 * 40) / 45
    each = [((40 * 2 * s + 5 * 40) / 45 / s, 40 / s) for s in (0.1, 0.2, 0.3)]
    assert estimates == pytest.approx([2, 2, *np.exp(np.log(each).mean(axis=0))])
    # Three repetitions are too few for an interval.
    assert all(ratio.low == -math.inf for ratio in ratios if ratio is not None)
    assert lsq.failed == 3 * 5
    assert lsq.seconds["mean"].estimate == pytest.approx(mean_s)
    assert lsq.load == pytest.approx(0.55)
    agent = found["a", (5.0, 10.0), ALL, "agent"]
    assert agent.seconds["mean"].estimate == pytest.approx(0.2 / 2 * 0.55)
    assert agent.balancer_us == pytest.approx(200)
    assert ("b", (5.0, 10.0), "wiki", "sed") not in found


def test_without_the_reference_there_is_no_ratio(tmp_path):
    store = Store(tmp_path)
    keep(store, "a", "lsq", 0, requests(0.1))
    (static, everything, wiki) = sorted(
        rows(list(store.runs()), {"a": [(0.0, 10.0)]}, 40), key=lambda row: row.page != "static"
    )
    assert {static.page, everything.page, wiki.page} == {"static", ALL, "wiki"}
    assert static.ratio["mean"] is None
    assert static.seconds["mean"].low == -math.inf


def test_the_page_has_every_method_every_window_and_the_papers_beside(store, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE)
    experiment = schema.load(path)
    runs = list(store.runs())
    sections = compared(experiment, "known", "short", runs, tmp_path)
    assert [section.title for section in sections] == ["All cases", "the case", "the other"]
    assert sections[0].text == NO_VERDICT
    assert sections[1].text.endswith(NO_VERDICT)
    assert "planned load 0.50" in sections[1].text
    against = next(table for table in sections[0].tables if table.title.startswith("mean of agent"))
    assert against.rows[0][:2] == ("sed", "0.50")
    page = write(tmp_path, "Known", [(experiment.title, experiment.about, sections)], "about")
    text = (tmp_path / "results.md").read_text()
    for words in ("1 to 10 s", "1 to 5 s", "5 to 10 s", "mpg 11-I-wiki", "Distr-LB", "0.92"):
        assert words in text
    assert "| lsq | 4800.0" in text
    html = page.read_text()
    assert html.count("<table>") == text.count("| --- |\n")
    for picture in tmp_path.glob("*.png"):
        assert f'src="{picture.name}"' in html
    figures = pl.read_parquet(tmp_path / "known-figures.parquet")
    assert set(figures["method"]) == {"sed", "lsq", "agent"}


def test_what_the_file_no_longer_has_is_not_shown_and_other_code_is_said(store, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE.replace("methods: [sed, lsq, agent]", "methods: [sed, agent]"))
    experiment = schema.load(path)
    runs = of_form(experiment, "short", store.runs())
    assert {kept.method for kept in runs} == {"sed", "agent"}
    assert len(runs) == 12
    about = preface({"known": experiment}, "short", "loopback", {"known": runs})
    assert "Made with other code" not in about
    assert "Missing" not in about
    assert "beyond the form" not in about
    fewer = {"known": experiment.repeated("short", 2)}
    about = preface(fewer, "short", "loopback", {"known": runs})
    assert "Repetitions beyond the form: known (3 instead of 2)." in about
    assert "Missing" not in about
    one_gone = [kept for kept in runs if kept.repetition == 2]
    about = preface(fewer, "short", "loopback", {"known": one_gone})
    assert "Missing: known (0 of 8 runs)." in about
    old = Kept(runs[0].folder, {**runs[0].record, "key": "0" * 64})
    about = preface({"known": experiment}, "short", "loopback", {"known": [old, *runs[1:]]})
    assert "than there are now: 1 of 12 runs." in about


def test_a_run_depends_on_its_ground_its_method_and_the_programs(monkeypatch):
    grounds = [Run("a", "sed", 0, {"ground": name}) for name in ("loopback", "namespaces")]
    content = {"ground": "loopback"}
    methods_ = [Run("a", name, 0, content) for name in ("haproxy-random", "nginx-least_conn")]
    before = [run.key for run in grounds + methods_]
    assert len(set(before)) == 4
    monkeypatch.setattr(programs, "versions", lambda: {"apache2": "Apache/9"})
    assert not {run.key for run in grounds + methods_} & set(before)


def test_the_page_for_the_documentation_has_its_few_pictures_beside_it(store, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE)
    experiment, runs = schema.load(path), list(store.runs())
    sections = compared(experiment, "known", "short", runs, tmp_path)
    about = preface(
        {"known": experiment, "absent": experiment},
        "short",
        "loopback",
        {"known": runs, "absent": []},
    )
    assert about.startswith("Form: short, on loopback. Latencies are ")
    assert " Commit" in about
    assert about.endswith("Missing: absent (0 of 18 runs).")
    docs = tmp_path / "docs"
    (docs / "img" / "results").mkdir(parents=True)
    (docs / "img" / "results" / "old.png").touch()
    parts = [(experiment.title, experiment.about, sections)]
    text = write_docs(docs, "Results", parts, about).read_text()
    pictures = {str(found.relative_to(docs)) for found in docs.rglob("*.png")}
    assert pictures == {"img/results/known-ratios-mean.png"}
    assert all(f"]({picture})" in text for picture in pictures)
    assert text.count("![") == len(pictures)
    # Pages one by one and servers one by one are in the whole report only.
    assert "| lsq | 4640.0 | 40000.0 | 40000.0 | 30 |" in text
    details = {table.title for section in sections for table in section.details}
    for title in ("Latency, wiki pages, 1 to 10 s", "Servers"):
        assert title in details
        assert f"#### {title}\n" not in text
    big = (tmp_path / "known-ratios-mean.png").stat().st_size
    assert (docs / "img" / "results" / "known-ratios-mean.png").stat().st_size < big


def test_windows_outside_of_a_form_are_left_out(tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE)
    case = schema.load(path).cases["a"]
    assert windows_of(case, 10.0, 1.0) == [(1.0, 10.0), (1.0, 5.0), (5.0, 10.0)]
    assert windows_of(case, 4.0, 1.0) == [(1.0, 4.0)]


def test_verdicts_are_ahead_behind_or_not_to_be_told(store, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE)
    for number in range(6):
        sed_s = 0.1 + 0.1 * number
        keep(store, "a", "sed", number, requests(sed_s))
        keep(store, "a", "lsq", number, requests(2 * sed_s))
        keep(store, "a", "agent", number, requests(1.1 * sed_s))
        keep(store, "a", "ewma", number, requests(sed_s * (1.0 if number % 2 else 1.25)))
        # Answers that are quick do not make up for failures.
        keep(store, "a", "wcmp", number, requests(sed_s / 10, failed=10))
        # All but three of them were made while the host was busy.
        doubt = "the host was busy" if number > 2 else ""
        keep(store, "a", "ecmp", number, requests(3 * sed_s), doubt)
    sections = compared(schema.load(path), "known", "short", list(store.runs()), tmp_path)
    text = sections[1].text
    assert (
        "agent, wiki pages, mean: ahead of lsq, wcmp; behind sed; not to be told from ewma; "
        "too few repetitions to tell from ecmp (fewer than 4 that count)." in text
    )
    assert "Not to be believed, 3 of 36 runs: ecmp 3 (the host was busy); ecmp 4" in text
    assert "agent, p99:" in text


def test_runs_of_another_rate_are_left_out_and_counted(store, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(FILE)
    content = {"topology": TOPOLOGY.model_dump(mode="json"), "rate_per_s": 99.0}
    old = next(kept for kept in store.runs() if kept.method == "lsq")
    tables = {name: old.table(name) for name in ("requests", "truth", "seen")}
    about = {**old.record, "began_s": -1.0}
    store.put(Run("a", "lsq", 9, content), tables, {k: about[k] for k in ABOUT})
    sections = compared(schema.load(path), "known", "short", list(store.runs()), tmp_path)
    assert sections[-1].title == "Left out"
    assert sections[-1].text.startswith("1 runs that are there were of other traffic")


def test_an_agents_run_is_another_with_other_parameters(tmp_path):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(b"one")
    before = Run("a", f"agent:{path}", 0, {}).key
    assert Run("a", f"agent:{path}", 0, {}).key == before
    path.write_bytes(b"another")
    assert Run("a", f"agent:{path}", 0, {}).key != before


def test_busy_workers_by_group_and_cpu_by_server(store):
    kept = next(store.runs())
    assert busy_by_group(kept, 1.0, 3.0) == {"small": [4] * 5, "large": [1] * 5}
    assert used_by_server(kept, 1.0, 10.0) == pytest.approx({"small1": 0.5, "large1": 0.0})


def test_cpu_is_over_what_a_server_had_at_that_moment(tmp_path):
    """From 5 s on it has half of its share, and uses all of that."""
    rows_ = [
        (float(at), "small1", 1, 0.05 * min(at, 5) + 0.05 * max(0, at - 5), 0.1 if at < 5 else 0.05)
        for at in range(11)
    ]
    tables = {"truth": pl.DataFrame(rows_, schema=TRUTH, orient="row")}
    kept = Store(tmp_path).put(Run("a", "sed", 0, {}), tables, {})
    assert used_by_server(kept, 0.0, 5.0) == pytest.approx({"small1": 0.5})
    assert used_by_server(kept, 5.0, 10.0) == pytest.approx({"small1": 1.0})


def test_a_run_is_there_until_what_it_depends_on_changes(tmp_path):
    store = Store(tmp_path)
    kept = keep(store, "a", "sed", 0, requests(0.1))
    run = Run("a", "sed", 0, kept.record["content"])
    found = store.has(run)
    assert found is not None
    assert found.requests().equals(kept.requests())
    assert store.has(Run("a", "sed", 1, run.content)) is None
    assert store.has(Run("a", "sed", 0, {**run.content, "rate_per_s": 11.0})) is None
    # Whoever was stopped half-way has kept nothing.
    (kept.folder / "run.json").unlink()
    assert store.has(run) is None
    assert list(store.runs()) == []


def test_probing_is_as_good_as_it_is_recent(tmp_path):
    at_s = np.arange(0, 20, 0.1)
    busy = np.rint(8 + 6 * np.sin(at_s)).astype(int)
    truth = pl.DataFrame(
        {"at_s": at_s, "server": "small1", "busy": busy, "cpu_s": at_s * 0.05, "cores": 0.1}
    ).cast({"busy": pl.Int64})

    def probes(every: int, hz: float) -> pl.DataFrame:
        # Half the answers are late, and come together with the next: the server's clock counts.
        late = pl.when(pl.int_range(pl.len()) % 2 == 0).then(0.0999).otherwise(0.0)
        return (
            truth.drop("cores")
            .gather_every(every)
            .with_columns(taken_s="at_s", hz=pl.lit(hz))
            .with_columns(pl.col("at_s") + (late if hz > 1 else 0.0))
        )

    content = {"topology": TOPOLOGY.model_dump(mode="json")}
    tables = {"truth": truth, "probes": pl.concat([probes(1, 10.0), probes(20, 0.5)])}
    kept = Store(tmp_path).put(Run("a", "sed", 0, content), tables, {})
    errors = errors_of(kept, 3.0)
    often, seldom = (errors.filter(pl.col("hz") == hz) for hz in (10.0, 0.5))
    error, rho = quality(often["busy_truth"], often["busy"])
    assert error < 1
    assert rho > 0.97
    error, rho = quality(seldom["busy_truth"], seldom["busy"])
    assert error > 2
    assert rho < 0.9
    assert often["used"].to_numpy() == pytest.approx(0.5)
    assert often["used_truth"].to_numpy() == pytest.approx(0.5)


def test_steps_are_counted_once_however_often_they_are_seen(tmp_path):
    written = [0, 100, 100, 350, 350, 350, 600]
    seen = [(0.1 * n, 0, "small1", 0, 1.0, at * 1_000_000) for n, at in enumerate(written)]
    tables = {"seen": pl.DataFrame(seen, schema=SEEN, orient="row")}
    kept = Store(tmp_path).put(Run("a", "agent", 0, {}), tables, {})
    assert intervals_ms(kept).tolist() == [250.0, 250.0]


def test_a_store_in_a_folder_that_is_not_there_is_empty(tmp_path: Path):
    assert list(Store(tmp_path / "nothing").runs()) == []
