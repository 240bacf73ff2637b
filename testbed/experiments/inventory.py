"""Which runs of the experiments are there, where they were made, and which are missing.

Lives here: what is counted and told before any figure. Never here: figures (`report`, `studies`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from testbed.experiments.figures import PAIRS_MIN
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import cases_of, methods_of, size_of
from testbed.experiments.store import Kept


def preface(
    files: Mapping[str, Experiment], form: Form, ground: str, there: Mapping[str, Sequence[Kept]]
) -> str:
    """What the page is about: form, ground, host, versions; and what of it there is not.

    there: the runs of each experiment in `files`.
    """
    lines = [f"Form: {form}, on {ground}."]
    every = [kept for runs in there.values() for kept in runs]
    hosts = [kept.record["host"] for kept in every]
    lines.append(_HOW_TO_READ)
    for key, words in (
        ("commit", "Commit"),
        ("cpu", "CPU"),
        ("cores", "Cores"),
        ("kernel", "Kernel"),
    ):
        values = dict.fromkeys(str(host.get(key) or "unknown") for host in hosts)
        changed = " (+: with changes)" if any(value.endswith("+") for value in values) else ""
        if values:
            lines.append(f"{words}{changed}: {', '.join(values)}.")
    programs = dict.fromkeys(
        f"{name} {version}"
        for host in hosts
        for name, version in host.get("programs", {}).items()
        if name != "numpy"
    )
    if programs:
        lines.append(f"Programs: {', '.join(programs)}.")
    again = sum(int(kept.record.get("attempts", 1)) > 1 for kept in every)
    if again:
        still = sum(bool(kept.record.get("why_not")) for kept in every)
        lines.append(
            f"Repeated, for there was reason to doubt them: {again} of {len(every)} runs; "
            f"{still} are still not to be believed."
        )
    began = [float(kept.record["began_s"]) for kept in every if "began_s" in kept.record]
    if began:
        first, last = (datetime.fromtimestamp(at, UTC) for at in (min(began), max(began)))
        lines.append(f"Runs began from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC.")
    stale = [kept for kept in every if kept.record["key"] != kept.run.key]
    if stale:
        lines.append(
            f"Made with other code, parameters or programs than there are now: {len(stale)} of "
            f"{len(every)} runs."
        )
    missing, more = [], []
    for name, experiment in files.items():
        repetitions = size_of(experiment, form).repetitions
        wanted = _wanted(experiment, form)
        found = sum(kept.repetition < repetitions for kept in there[name])
        if found < wanted:
            missing.append(f"{name} ({found} of {wanted} runs)")
        most = max((kept.repetition + 1 for kept in there[name]), default=0)
        if most > repetitions:
            more.append(f"{name} ({most} instead of {repetitions})")
    if more:
        lines.append(f"Repetitions beyond the form: {', '.join(more)}.")
    if missing:
        lines.append(f"Missing: {', '.join(missing)}.")
    return " ".join(lines)


_HOW_TO_READ = (
    "Latencies are milliseconds from the planned time, failures as long as a client waits, means "
    "over repetitions; answered: the mean of those that were answered; CPU: of all balancers, "
    "microseconds a request, over whole runs, idle time included; load: arrivals times what an "
    "answer really cost the servers, over what they had at first (planned loads are shares of what "
    "they answer when saturated, which costs more an answer); sound: runs that there is no reason "
    "to doubt. Busy workers: CIKM reports a ratio of large to small of 2.33 for SED with two "
    "balancers (figure 9), 2.67 and 2.25 with six (figure 10), and about 1 for its learned method. "
    f"Intervals are 95 %, from {PAIRS_MIN} repetitions on, by Student's t: of latencies, and of "
    "logarithms of ratios on the same requests; ratios are geometric means over repetitions, of "
    "those that there is no reason to doubt, or marked with \\* where none is left. Verdicts are "
    "not corrected for their number."
)


def of_form(experiment: Experiment, form: Form, runs: Iterable[Kept]) -> list[Kept]:
    """Those that the file still has: an earlier one may have had other methods and cases.

    More repetitions than the form has count, too: who asked for them knows why.
    """
    if experiment.kind in ("decision", "reading"):
        return list(runs)
    cases, methods = cases_of(experiment, form), methods_of(experiment, form)
    return [kept for kept in runs if kept.case in cases and kept.method in methods]


def _wanted(experiment: Experiment, form: Form) -> int:
    """How many runs the form has."""
    size = size_of(experiment, form)
    if experiment.kind == "decision":
        return size.repetitions
    methods = 1 if experiment.kind == "reading" else len(methods_of(experiment, form))
    return size.repetitions * len(cases_of(experiment, form)) * methods


def manifest(experiment: Experiment, form: Form, runs: Sequence[Kept]) -> str:
    """What was run where, as JSON."""
    return json.dumps(
        {
            "form": form,
            "experiment": experiment.model_dump(mode="json"),
            "runs": [dict(kept.record) for kept in runs],
        },
        indent=1,
    )
