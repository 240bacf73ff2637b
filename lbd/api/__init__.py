"""The runtime API: HTTP and JSON on a unix socket, described by OpenAPI.

Lives here: what can be asked and changed while the daemon runs. Never here: how a change is taken
into force (`lbd.supervisor`): every change is another configuration, validated like a file.
"""
