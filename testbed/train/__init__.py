"""Training of the shipped policy in the simulator.

Reading order: `distribution` (what to train on), `tables` (what a privileged search finds best),
`rollouts` (what the agent sees meanwhile), `imitate` (a network that does the best by what it
sees), `practice` and `refine` (soft actor-critic from there), `validate` (how good it is),
`command`; beside them `ablate` (what each part is worth).
"""
