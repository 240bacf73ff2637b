"""Prometheus metrics, read out of shared memory at each scrape: one truth.

Lives here: names, labels and the HTTP endpoint of the supervisor. Never here: counters of its own.
Names follow HAProxy's exporter where it has one; base units; no client addresses in labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic_ns

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.address import Address
from lbd.edge.counters import HELP as EDGE_HELP
from lbd.state_metrics import state_metrics
from shm import layout as lo
from shm.reader import Reader
from shm.region import Region
from shm.weights import newest_weights


class Metrics(Collector):
    """Serves /metrics in a thread. Raises OSError where the address cannot be bound."""

    def __init__(
        self, address: Address, regions: list[Region], restarts: Callable[[], int]
    ) -> None:
        self._readers = [Reader(region) for region in regions]
        self._restarts = restarts
        registry = CollectorRegistry()
        registry.register(self)
        self._server, self._thread = start_http_server(
            address.port, addr=address.host, registry=registry
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterable[Metric]:
        labels = ["service", "backend"]
        now_ns = monotonic_ns()
        sessions = GaugeMetricFamily(
            "lbd_server_current_sessions", "Flows in progress.", labels=labels
        )
        configured = GaugeMetricFamily(
            "lbd_server_configured_weight", "Weight as configured.", labels=labels
        )
        weight = GaugeMetricFamily(
            "lbd_server_weight", "Weight of the agent's newest frame.", labels=labels
        )
        totals = {
            name: CounterMetricFamily(f"lbd_server_{_metric(name)}", help_text, labels=labels)
            for name, help_text in _HELP.items()
        }
        scalars = {
            name: CounterMetricFamily(f"lbd_{name}", help_text, labels=["service"])
            for name, help_text in _SCALAR_HELP.items()
        }
        age = GaugeMetricFamily(
            "lbd_agent_heartbeat_age_seconds",
            "Time since the agent's last step; absent until there was one.",
            labels=["service"],
        )
        for reader in self._readers:
            region = reader.region
            seen = reader.snapshot(now_ns)
            given = newest_weights(region)
            for row, entry in enumerate(region.entry(int(slot)) for slot in seen.slots):
                at = [region.service, entry.name]
                sessions.add_metric(at, int(seen.flows[row]))
                configured.add_metric(at, entry.weight)
                if given is not None and given.known[entry.slot]:
                    weight.add_metric(at, float(given.weight[entry.slot]))
                for name, family in totals.items():
                    scale = 1e-9 if "_ns_" in name else 1
                    family.add_metric(at, int(seen.totals[name][row]) * scale)
            counted = reader.scalars()
            for name, family in scalars.items():
                family.add_metric([region.service], counted[name])
            beat_ns = region.words[region.layout.agent + lo.AGENT_SCALAR["heartbeat_ns"]]
            if beat_ns:
                age.add_metric([region.service], (now_ns - beat_ns) * 1e-9)
        restarts = CounterMetricFamily("lbd_worker_restarts_total", "Workers started again.")
        restarts.add_metric([], self._restarts())
        states = state_metrics([reader.region for reader in self._readers])
        served = [*totals.values(), *scalars.values(), age, restarts, *states]
        return [sessions, configured, weight, *served]


def _metric(row: str) -> str:
    """A counter row's name in base units: `connect_ns_total` becomes `connect_seconds_total`."""
    return row.replace("flows_total", "sessions_total").replace("_ns_", "_seconds_")


_HELP = {
    "flows_total": "Flows given to the backend.",
    "connected_total": "Backend connections established.",
    "first_client_byte_total": "Flows whose client has sent a first byte.",
    "first_byte_total": "Flows that got a first byte from the backend.",
    "completed_total": "Flows that both sides ended in order.",
    "connect_failed_total": "Flows whose backend connection was refused or impossible.",
    "connect_timeout_total": "Flows whose backend connection took too long.",
    "local_failed_total": "Flows for whose backend connection this machine lacked means.",
    "backend_reset_total": "Flows that the backend reset.",
    "backend_silent_total": "Flows that the backend closed without a byte.",
    "backend_timeout_total": "Flows whose client had asked and whose backend never answered.",
    "client_reset_total": "Flows that the client reset.",
    "idle_timeout_total": "Flows ended for carrying no byte.",
    "total_timeout_total": "Flows ended for lasting too long.",
    "slow_client_total": "Flows ended because the client was silent or too slow.",
    "withdrawn_total": "Flows ended by a drain's deadline, or because their backend went down.",
    "shutdown_total": "Flows ended by a stop of the balancer.",
    "lost_total": "Flows that were open in a worker that died.",
    "bytes_in_total": "Bytes from clients.",
    "bytes_out_total": "Bytes to clients.",
    "connect_ns_total": "Sum of accept to backend connected.",
    "client_wait_ns_total": "Sum of accept to the client's first byte.",
    "duration_ns_total": "Sum of backend connected to its first byte.",
    "fct_ns_total": "Sum of flow completion times.",
    "unanswered_total": "Flows that the backend failed before its first byte.",
    "retried_total": "Flows tried again on the same backend.",
    "redispatched_total": "Flows that left for another backend.",
}

_SCALAR_HELP = {
    "accepted_total": "Connections accepted.",
    "no_backend_total": "Connections closed for lack of a backend.",
    "accept_failed_total": "Times that accepting stopped for lack of descriptors or memory.",
    "accept_paused_total": "Times that accepting stopped because the service was full.",
    "frames_applied_total": "Weight frames applied.",
    "frames_torn_total": "Weight frames refused: torn.",
    "frames_stale_total": "Weight frames refused: expired or from the future.",
    "frames_foreign_total": "Weight frames refused: made for another region or other backends.",
    "frames_invalid_total": "Weight frames refused: not positive finite numbers.",
    "weights_foreign_total": "Weights left out: made for a backend that has gone.",
    "fallback_total": "Times that the fallback policy took over.",
    **EDGE_HELP,
    "queued_total": "Flows that had to wait for a backend with room.",
    "queue_full_total": "Connections closed because the queue was full.",
    "queue_timeout_total": "Connections closed after too long in the queue.",
    "queue_shutdown_total": "Connections closed in the queue by a stop of the balancer.",
    "retry_refused_total": "Further attempts refused for lack of retry budget.",
}
