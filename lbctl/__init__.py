"""`lbctl`: an operator's hand on a running balancer, over its runtime API.

Lives here: commands, tables, the live view. Never here: a decision of the daemon's; it imports
nothing of it but the configuration's schema, to check a file before it is saved.
"""
