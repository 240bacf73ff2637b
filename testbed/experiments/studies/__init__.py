"""What is made of runs, one module a kind of experiment.

Lives here: which module. Each has `play(experiment, name, form, store, ground)`, which yields
`season.Progress`, and `sections(experiment, name, form, runs, folder)`, its part of the report.
"""

from __future__ import annotations

import importlib
from typing import Any


def study(kind: str) -> Any:
    """The module of a kind, see `schema.Experiment`."""
    return importlib.import_module(f"testbed.experiments.studies.{kind}")
