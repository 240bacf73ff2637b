"""What the edges count, in words.

Lives here: the help texts, for metrics. Never here: the counters (`shm.layout.EDGE_SCALARS`).
"""

from __future__ import annotations

from typing import Final

HELP: Final = {
    "proxy_untrusted_total": "Connections refused: no trusted network, and no plain ones wanted.",
    "proxy_malformed_total": "Connections refused: no PROXY header, or a wrong one.",
    "proxy_oversized_total": "Connections refused: a PROXY header that is too long.",
    "hello_malformed_total": "Connections refused: no TLS, and no service for that.",
    "sni_unknown_total": "Connections refused: no service for the server's name.",
    "preface_timeout_total": "Connections refused: the PROXY header or ClientHello took too long.",
    "preface_closed_total": "Connections closed before the PROXY header or ClientHello was there.",
    "refused_source_connections_total": "Connections refused: the source has too many.",
    "refused_source_rate_total": "Connections refused: the source makes too many.",
    "source_untracked_total": "Connections let in uncounted: no room for their source.",
    "shed_full_total": "Connections reset because the service was full.",
    "shed_descriptors_total": "Connections reset because descriptors ran short.",
    "stick_hits_total": "Flows that went where their source had been before.",
    "stick_forgotten_total": "Sources forgotten before their time, for want of room.",
}
