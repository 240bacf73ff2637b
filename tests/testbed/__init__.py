"""Tests of the testbed: virtual time where figures are exact, real sockets where they are not."""
