"""The one error of the parsers.

Lives here: the exceptions. Never here: what is done about them.
"""

from __future__ import annotations


class Malformed(ValueError):
    """No continuation makes these bytes what they should be; the message says what is wrong."""


class TooLong(Malformed):
    """Well-formed so far, but longer than is accepted."""
