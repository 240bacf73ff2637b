"""Experiment files: all that come with the testbed, and errors that name the place."""

from __future__ import annotations

import pytest

from config.problem import ConfigError
from testbed.cli import main
from testbed.experiments import schema
from testbed.experiments.beside import columns
from testbed.experiments.season import cases_of, methods_of
from testbed.lab.topology import find as find_topology
from testbed.lab.topology import load_topology

GOOD = """\
title: one
cases:
  a:
    title: the case
    traffic: {kind: loop, load: 0.5}
short: {run_s: 4, repetitions: 1}
full: {run_s: 60, repetitions: 10}
"""


def event(at_s: str, server: str) -> tuple[str, str]:
    return "load: 0.5}", f"load: 0.5}}\n    events: [{{at_s: {at_s}, servers: [{server}]}}]"


@pytest.mark.parametrize("name", schema.names())
def test_a_shipped_experiment_can_be_run_in_both_forms(name):
    experiment = schema.load(schema.find(name))
    load_topology(find_topology(experiment.topology))
    for form in ("short", "full"):
        assert methods_of(experiment, form)
        for case in cases_of(experiment, form).values():
            # What a case's comparison names must be there.
            assert set(case.beside) <= set(columns())
            if case.topology is not None:
                load_topology(find_topology(case.topology))


def test_the_short_form_of_the_whole_set_takes_less_than_an_hour():
    """A run takes its time and that of starting and ending: as measured, 3 s with seven servers
    and 10 s with twenty; and a minute and a half for each set of machines."""
    seconds, machines = 0.0, set()
    for name in schema.names():
        experiment = schema.load(schema.find(name))
        size = experiment.short
        if experiment.kind in ("reading", "decision"):
            seconds += 60 * size.repetitions
            continue
        for case in cases_of(experiment, "short").values():
            topology = case.topology or experiment.topology
            machines.add((topology, case.site))
            runs = size.repetitions * len(methods_of(experiment, "short"))
            seconds += runs * (size.run_s + (10 if topology == "six" else 3))
    assert (seconds + 90 * len(machines)) / 60 < 55


def test_more_repetitions_are_of_the_form_that_is_run():
    experiment = schema.load(schema.find("loop"))
    more = experiment.repeated("short", 5)
    assert more.short == experiment.short.model_copy(update={"repetitions": 5})
    assert more.full == experiment.full


@pytest.mark.parametrize("text", ["0", "-1", "1001", "many", ""])
def test_a_number_of_repetitions_that_is_none_is_told(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", "loop", f"--repetitions={text}", "--list"])
    assert "--repetitions" in capsys.readouterr().err


def test_the_papers_comparisons_have_all_that_they_compare():
    wanted = {
        "ecmp", "wcmp", "awcmp", "lsq", "sed", "ewma", "agent",
        "haproxy-leastconn", "nginx-least_conn",
    }  # fmt: skip
    for name in ("loop", "wiki-apcu", "wiki-file"):
        experiment = schema.load(schema.find(name))
        for form in ("short", "full"):
            assert wanted <= set(methods_of(experiment, form))


def test_every_column_of_the_papers_has_its_reference():
    assert all(column.ratio("sed") == 1.0 for column in columns().values())
    assert columns()["mpg/11-II-wiki"].ratio("Distr-LB") == pytest.approx(0.72, abs=0.005)
    assert columns()["cikm/3-wiki"].ratio("nobody") is None


@pytest.mark.parametrize(
    ("change", "line", "key"),
    [
        (("load: 0.5", "load: 0.5, rate_per_s: 3"), 5, "rate_per_s or load"),
        (("load: 0.5", "laod: 0.5"), 5, "laod"),
        (("kind: loop", "kind: flood"), 5, "flood"),
        (("title: one", "title: one\nmethods: [sed, best]"), 2, "no method 'best'"),
        (("title: one", "title: one\nmethods: ['agent:']"), 2, "no method 'agent:'"),
        (("run_s: 4", "run_s: -4"), 6, "run_s"),
        (("run_s: 4", "run_s: 1"), 6, "settle_s must be less"),
        (("run_s: 4", "cases: [b], run_s: 4"), 1, "no such cases: b"),
        (("title: one", "title: one\nkind: probing"), 1, "every case needs probes_hz"),
        (("title: one", "title: one: two"), 1, "yaml"),
        (("load: 0.5}", "load: 0.5}\n    beside: [cikm/nope]"), 6, "no column 'cikm/nope'"),
        (("  a:", "  ../../a:"), 3, "pattern"),
        (("title: one", "title: one\nmethods: [sed, lsq, sed]"), 2, "methods[2]: 'sed' is there"),
        (("title: one", "title: one\nmethods: ['agent:/nope']"), 2, "there is no /nope"),
        (("title: one", "title: one\ntopology: nosuch"), 2, "nosuch"),
        (("kind: loop", "kind: day"), 3, "a day has wiki pages"),
        (("kind: loop", "kind: trace, file: no.tsv"), 5, "no file no.tsv"),
        (event("1", "lrage"), 6, "events[0].servers[0]: no server or group 'lrage'"),
        (event("1", "small9"), 6, "no server or group 'small9'"),
        (event("60", "large"), 6, "events[0].at_s: its runs end after 60 s"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, change, line, key):
    path = tmp_path / "x.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError) as raised:
        schema.load(path)
    assert f"{path}:{line}: " in str(raised.value)
    assert key in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml:1"):
        schema.load(tmp_path / "nothing.yaml")
