"""What all sections of a configuration have in common.

Lives here: the base of the models and the bound on durations. Never here: a key.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_DURATION_S = 31_536_000  # a year: far from overflow in any timer, and as good as never


class Section(BaseModel):
    """Common to all: immutable, no unknown keys, no conversions between types, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
