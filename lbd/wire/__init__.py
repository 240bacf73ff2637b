"""What stands at the front of a connection's bytes: the PROXY header and the TLS ClientHello.

Lives here: parsers and builders, pure functions of bytes. Never here: sockets, trust, what follows
from what was read (`lbd.edge`).
A parser gets all bytes so far: it returns what they say, None while more are needed, and raises
`Malformed` as soon as no further byte could make it right. It never raises anything else.
"""
