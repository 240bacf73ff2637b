"""The policy that comes with the agent, as a file; README.md beside it is its model card.

Lives here: where it lies. Never here: reading it (`agent.learn.checkpoint`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHIPPED: Final = Path(__file__).parent / "shipped.safetensors"
"""Trained for the base `latency`; `python -m testbed train` makes it anew."""
