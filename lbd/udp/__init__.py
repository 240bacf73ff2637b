"""UDP services: sockets that tell where a datagram was sent to, and the sessions they make up."""
