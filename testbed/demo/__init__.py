"""The demo: the whole system on one machine, watched live and compared policy by policy."""
