"""The league: every policy on every scenario, on the same seeds, and who is worse than whom.

Reading order: `match` (what is played), `cache` (what was played before), `farm` (on which cores),
`season` (all of it), `standings` (the statistics), `report` and `plots` (files), `command` (flags).
"""
