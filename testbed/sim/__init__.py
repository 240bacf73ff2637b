"""An event-driven simulator: balancers, servers and flows in compiled loops, judged on seeds.

Reading order: `scenario` (what is simulated), `workload` (the flows, drawn before the run),
`records` and `kernel` (the compiled event loop), `world` (one run, with snapshots for agents),
`policies` (who chooses), `run` (one result).
"""
