"""What the scenarios start: see `lbd_fixtures`."""

from lbd_fixtures import backend, daemon, launch

__all__ = ["backend", "daemon", "launch"]
