"""`python -m testbed run`: flags, the experiments in turn, the report.

Lives here: the flags and the order. Never here: measuring, statistics, pages.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from testbed.experiments.schema import Experiment, Form
    from testbed.experiments.season import Ground, Progress

EXIT_FAILED = 1
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    from testbed.experiments.grounds import GROUNDS

    parser.add_argument("experiments", nargs="*", metavar="NAME|FILE")
    parser.add_argument("--all", action="store_true", help="every experiment that comes with it")
    parser.add_argument("--list", action="store_true", help="say which there are, and end")
    parser.add_argument("--full", action="store_true", help="hours instead of minutes")
    parser.add_argument("--on", choices=GROUNDS, default=GROUNDS[0], help="where the servers are")
    parser.add_argument(
        "--capacity",
        type=_capacity,
        action="append",
        default=[],
        metavar="SITE=REQUESTS_PER_S",
        help="what a lab's servers can do, instead of measuring it",
    )
    parser.add_argument(
        "--repetitions",
        type=_count,
        metavar="N",
        help="instead of the form's: from four on there are intervals and verdicts",
    )
    parser.add_argument("--report-only", action="store_true", help="of what is there already")
    parser.add_argument(
        "--docs",
        type=Path,
        metavar="FOLDER",
        help="write the page there, too: FOLDER/results.md and its pictures in img/results",
    )
    parser.add_argument("--out", type=Path, default=Path("report/experiments"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    """0; EXIT_FAILED where a run failed, others go on; EXIT_USAGE for a file that cannot be used.

    Runs that are there from before are not repeated, unless what they depend on has changed.
    """
    from rich.console import Console

    from config.problem import ConfigError
    from testbed.experiments import schema
    from testbed.experiments.grounds import ground
    from testbed.processes import unwind_on_signals

    console = Console()
    names = schema.names() if args.all else args.experiments
    try:
        files = {schema.find(name).stem: schema.load(schema.find(name)) for name in names}
        if args.list or not files:
            for name in schema.names():
                console.print(f"{name}: {schema.load(schema.find(name)).title}")
            return 0 if args.list else EXIT_USAGE
    except ConfigError as error:
        print(f"run: {error}", file=sys.stderr)
        return EXIT_USAGE
    form: Form = "full" if args.full else "short"
    if args.repetitions:
        files = {
            name: experiment.repeated(form, args.repetitions) for name, experiment in files.items()
        }
    unwind_on_signals()
    where = ground(args.on, args.out / args.on, dict(args.capacity))
    with where:
        out = args.out / args.on
        return _run_all(console, files, form, where, out, args.report_only, args.docs)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _capacity(text: str) -> tuple[str, float]:
    site, _, rate = text.partition("=")
    if not site or not float(rate) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not SITE=REQUESTS_PER_S")
    return site, float(rate)


def _run_all(
    console: Console,
    files: dict[str, Experiment],
    form: Form,
    ground: Ground,
    out: Path,
    report_only: bool,
    docs: Path | None,
) -> int:
    from testbed.experiments import inventory, page
    from testbed.experiments.round import RUN_ERRORS
    from testbed.experiments.season import UnfitError, methods_of
    from testbed.experiments.store import Store
    from testbed.experiments.studies import study
    from testbed.load.trace import TraceError

    folder = out / form
    began_s = time.monotonic()
    status = 0
    if not report_only:
        for name in sorted(files, key=lambda name: _machines(files[name], form)):
            experiment = files[name]
            try:
                work = study(experiment.kind)
                for progress in work.play(experiment, name, form, Store(folder / name), ground):
                    _say(console, name, progress)
            except UnfitError as error:
                console.print(f"{name}: left out, {error}", highlight=False)
            except (*RUN_ERRORS, TraceError) as error:
                console.print(f"[bold red]{name}:[/] {error}", highlight=False)
                status = EXIT_FAILED
    parts, there = [], {}
    # Those that compare most come first.
    by_methods = sorted(files, key=lambda name: -len(methods_of(files[name], form)))
    for name in by_methods:
        experiment = files[name]
        runs = there[name] = inventory.of_form(experiment, form, Store(folder / name).runs())
        if runs:
            sections = study(experiment.kind).sections(experiment, name, form, runs, folder)
            parts.append((experiment.title, experiment.about, sections))
            (folder / f"{name}.json").write_text(inventory.manifest(experiment, form, runs))
    minutes = (time.monotonic() - began_s) / 60
    about = inventory.preface(files, form, ground.kind, there)
    index = page.write(folder, "Experiments", parts, about)
    console.print(f"report, after {minutes:.1f} minutes: {index}")
    if docs is not None:
        console.print(f"for the documentation: {page.write_docs(docs, 'Results', parts, about)}")
    return status


def _machines(experiment: Experiment, form: Form) -> tuple[str, str]:
    """One experiment after another on the same machines: making them takes a while."""
    from testbed.experiments.season import cases_of

    sites = [case.site for case in cases_of(experiment, form).values()]
    return experiment.topology, sites[0] if sites else ""


def _say(console: Console, name: str, progress: Progress) -> None:
    record = progress.kept.record
    how = "played" if progress.fresh else "there"
    late = f"; {', '.join(record['why_not'])}" if record.get("why_not") else ""
    console.print(
        f"{name} {record['case']} {record['method']} {record['repetition']}: {how}, "
        f"{progress.left} to come{late}",
        highlight=False,
    )
