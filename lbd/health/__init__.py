"""Which backends are fit for use: found out by the supervisor, once for all workers.

Lives here: verdicts (pure: verdict, ejection, ramp, feedback), how they are come by (probe), and
who writes them into the region (monitor). Never here: a flow.
"""
