"""The control plane: measurements in, backend weights out, every 250 ms.

The way of the data: `observe` (features) -> `act` (numpy policy) -> `agent.Agent` (one decision)
-> `learn` (torch, in a process of its own) -> new parameters for `act`.
Torch is imported below `agent.learn` only, and there not by `process` and `wire`.
"""
