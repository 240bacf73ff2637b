"""Names of backends that are looked up again and again, in the supervisor, once for all workers.

Reading order: names (when), lookup (I/O), known (what follows, pure). An answer that is empty, or
none, changes nothing: the last good addresses stay. Never here: slots and states (`lbd.backends`).
"""
