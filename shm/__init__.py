"""The region that the data plane and the agent share, and nothing else.

Lives here: the layout, how each word is written and read, and the tools that show a region.
Never here: sockets, policies, learning; no import of `lbd`, `agent` or `testbed`.
Reading order: layout, segment, region, states, frames, reservoir, worker, snapshot, weights,
reader; the tools are describe and cli.
"""
