"""The refusal of a configuration. Lives here: the exception. Never here: who raises it."""

from __future__ import annotations


class ReloadError(Exception):
    """A configuration cannot be taken into force; nothing has changed. The message says why."""
