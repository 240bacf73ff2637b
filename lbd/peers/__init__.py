"""Balancers before the same servers tell each other their queues, from supervisor to supervisor.

Reading order: known (whom to believe, pure), sums (what they tell, pure), shared (one service's
region), members (who they are), talk (the socket and the clock). The datagrams' form is
`lbd.wire.peers`; what is heard lands in the region by `shm.peers`, from where workers add it to the
q of dispatch, and the agent to what it observes. Never here: a flow; this balancer's own figures.
"""
