"""Learning: replay, networks, losses, checkpoints, and the process they run in.

Importing this package, or `process`, `wire` and `replay` of it, imports no torch.
"""
