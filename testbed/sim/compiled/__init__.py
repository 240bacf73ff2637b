"""The simulator's compiled part: plain loops over the records of `testbed.sim.records`.

Lives here: what runs for every flow. Never here: Python objects, scenarios, agents.
`dispatch` mirrors `lbd.dispatch`, `latency` mirrors `lbd.dispatch.latency`; tests hold them to it
choice by choice.
"""
