"""An experiment's file: what is asked of which servers, by which methods, how often.

Lives here: the keys, and errors that name file, line and key. Never here: running anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from config.document import parse
from config.load import load_as
from config.problem import ConfigError, Problem, dotted
from config.section import Section
from testbed.experiments.beside import columns
from testbed.experiments.methods import MethodError, check

FOLDER = Path(__file__).parent / "set"

Form = Literal["short", "full"]


def _method(value: object) -> object:
    """A name that `methods` knows."""
    if isinstance(value, str):
        try:
            check(value)
        except MethodError as error:
            raise ValueError(str(error)) from error
    return value


def _column(value: object) -> object:
    """One that `beside` knows."""
    if isinstance(value, str) and value not in columns():
        raise ValueError(f"the papers have no column {value!r}")
    return value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


Method = Annotated[str, BeforeValidator(_method)]
PaperColumn = Annotated[str, BeforeValidator(_column)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""Of a case; it is in names of files."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Number = Annotated[float, Field(gt=0)]
File = Annotated[Path, BeforeValidator(_path)]


class Rated(Section):
    """How fast requests come: `rate_per_s`, or `load`, a share of what the servers can do."""

    rate_per_s: Number | None = None
    load: Annotated[float, Field(gt=0, le=3)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Rated:
        if (self.rate_per_s is None) == (self.load is None):
            raise ValueError("give either rate_per_s or load")
        return self


class Loop(Rated):
    """Poisson arrivals of a PHP for-loop page, exponential iterations."""

    kind: Literal["loop"]
    iterations: Annotated[int, Field(gt=0)] = 368_000


class Trace(Rated):
    """A recorded `time<TAB>query` or WikiBench file, replayed at another rate."""

    kind: Literal["trace"]
    file: File
    format: Literal["tsv", "wikibench"] = "tsv"
    iterations_scale: Number = 1.0


class Day(Rated):
    """Hours `from_h` to `to_h` of Wikipedia's day, fitted into the run; the rate is that of hour 0.

    Without `to_h` the whole run is like hour `from_h`. wiki: the share of wiki pages, else static.
    """

    kind: Literal["day"]
    from_h: Annotated[float, Field(ge=0, lt=24)] = 0.0
    to_h: Annotated[float, Field(gt=0, le=24)] | None = None
    wiki: Annotated[float, Field(ge=0, le=1)] = 0.44

    @model_validator(mode="after")
    def _forward(self) -> Day:
        if self.to_h is not None and self.to_h <= self.from_h:
            raise ValueError("to_h must come after from_h")
        return self


Traffic = Annotated[Loop | Trace | Day, Field(discriminator="kind")]


class Event(Section):
    """From `at_s` on, co-located load takes CPU from these servers.

    servers: their names, or their groups. take: this share is gone; with 0 they have all of it
    again. burn: so many processes that only count, which get their turns within the server's share
    of a core until the run ends; servers that only act as if do not feel them.
    """

    at_s: Annotated[float, Field(ge=0)]
    servers: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    take: Annotated[float, Field(ge=0, lt=1)] = 0.0
    burn: Annotated[int, Field(ge=0, le=64)] = 0


class Case(Section):
    """One traffic on one topology. `title` names it in the report.

    beside: which of the papers' columns stand beside it, `paper/table-column`. probes_hz: how often
    servers are asked how busy they are, by somebody who does nothing with it; several at once.
    """

    title: str
    traffic: Traffic
    topology: str | None = None
    site: Literal["loop", "wiki-apcu", "wiki-file"] = "loop"
    events: Annotated[tuple[Event, ...], Field(strict=False)] = ()
    windows_s: Annotated[tuple[float, ...], Field(strict=False)] = ()
    beside: Annotated[tuple[PaperColumn, ...], Field(strict=False)] = ()
    probes_hz: Annotated[tuple[Number, ...], Field(strict=False)] = ()


class Size(Section):
    """How much of it: seconds a run, settled after `settle_s`, repetitions, fewer methods.

    cases: only these, where they are too many for the form.
    """

    run_s: Seconds
    repetitions: Annotated[int, Field(gt=0, le=1000)]
    settle_s: Annotated[float, Field(ge=0)] = 2.0
    methods: Annotated[tuple[Method, ...], Field(strict=False)] = ()
    cases: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _settled(self) -> Size:
        if self.settle_s >= self.run_s:
            raise ValueError("settle_s must be less than run_s")
        return self


class Experiment(Section):
    """kind: compare methods, or one of the studies of `testbed.experiments.studies`."""

    title: str
    about: str = ""
    kind: Literal["compare", "probing", "reading", "decision", "steps"] = "compare"
    topology: str = "moderate"
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1)] = ("sed",)
    cases: dict[Label, Case] = Field(default_factory=dict)
    seed: int = 1
    timeout_s: Seconds = 40.0
    truth_hz: Annotated[float, Field(gt=0, le=200)] = 10.0
    short: Size
    full: Size

    def repeated(self, form: Form, repetitions: int) -> Experiment:
        """The same with other repetitions in that form."""
        size = self.short if form == "short" else self.full
        return self.model_copy(update={form: size.model_copy(update={"repetitions": repetitions})})

    @model_validator(mode="after")
    def _cases(self) -> Experiment:
        for form in (self.short, self.full):
            unknown = set(form.cases) - set(self.cases)
            if unknown:
                raise ValueError(f"no such cases: {', '.join(sorted(unknown))}")
        if self.kind != "decision" and not self.cases:
            raise ValueError("needs at least one case")
        if self.kind == "probing" and not all(case.probes_hz for case in self.cases.values()):
            raise ValueError("every case needs probes_hz")
        return self


def names() -> list[str]:
    """Every experiment that comes with the testbed."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of an experiment: one of ours by its name, any other by its path."""
    ours = FOLDER / f"{name}.yaml"
    return ours if ours.is_file() else Path(name)


def load(path: Path) -> Experiment:
    """The experiment in the file. Raises ConfigError with all of the file's problems."""
    # What it needs of other files is only asked of one that is right by itself.
    from testbed.experiments.sense import wrong

    experiment = load_as(Experiment, path)
    found = wrong(experiment)
    if found:
        document = parse(path.read_text("utf-8-sig"))
        problems = [Problem(document.line(loc), dotted(loc), text) for loc, text in found]
        raise ConfigError(path, problems)
    return experiment
