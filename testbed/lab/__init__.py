"""Machines of a testbed: what there is of them, and how they come and go.

Neighbours: `testbed.experiments` runs on them; `testbed.server` is one kind of server.
"""
