"""The one YAML file that the data plane and the agent share: its schema and its error messages.

Lives here: text to frozen, validated objects, and what to tell the operator when that fails.
Never here: resolving names, opening sockets or checkpoints, watching the file; no import of ours.
Reading order: address, problem, document, relations, schema, explain, load.
"""
