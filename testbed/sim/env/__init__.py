"""Environments of reinforcement learning over the simulator, with the live agent's definitions.

Reading order: `coding` (observations and actions as boxes), `game` (one episode), `single`
(Gymnasium: one balancer learns), `parallel` (PettingZoo: all do), `vector`, `render`.
Importing it registers the Gymnasium environment: `gymnasium.make("testbed.sim.env:" + BALANCER)`.
"""

from __future__ import annotations

from gymnasium.envs.registration import register

BALANCER = "lbd/Balancer-v0"

register(BALANCER, entry_point="testbed.sim.env.single:BalancerEnv")
