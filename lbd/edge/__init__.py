"""What stands between accept and dispatch where a service asks for it, and nothing where not.

Reading order, a connection's way: gate, preface, sources, router, arrival, handover. Lives here:
who may come in, what a client says of itself before its flow begins, which service it wants.
Never here: the bytes' own form (`lbd.wire`); the choice of a backend (`lbd.dispatch`).
"""
