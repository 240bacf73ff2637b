"""What the scenarios start: see `lbd_fixtures`."""

from lbd_fixtures import backend, daemon, launch
from lbd_zone import zone

__all__ = ["backend", "daemon", "launch", "zone"]
