"""What can be wrong with a region. Never here: anything a peer of a flow does."""


class RegionError(Exception):
    """A region cannot be created, attached or trusted; the message says which and why."""


class RegionAbsent(RegionError):
    """No region of that name, or one that is not ready yet: worth waiting for."""


class RegionBusy(RegionError):
    """Another live process holds the role asked for (owner or agent)."""
