"""A backend whose capacity is known because it is simulated: real TCP, work by the clock.

Reading order: discipline (pure), request (pure), backend, connection, server, command.
Never here: the balancer; a backend does not know that one stands before it.
"""
