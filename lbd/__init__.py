"""The data plane: accepts flows, chooses a backend, relays bytes, records what it saw.

Reading order, the data's journey: supervisor, worker, listener, service, dispatch, relay, flow,
ledger. Never here: learning, torch, or waiting for the agent.
"""
