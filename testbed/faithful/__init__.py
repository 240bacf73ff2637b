"""Is the simulator faithful: the same requests over real TCP and simulated, policy by policy.

Reading order: `setting` (what is asked of both), `live` (over TCP), `twin` (simulated), `compare`
(the rounds), `kept` (live runs on disk), `figures` (ratios with intervals), `report`, `command`.
"""
