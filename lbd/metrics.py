"""What Prometheus is told, read out of shared memory at each scrape: one truth.

Lives here: the families, and which words they are made of. Never here: counters of its own; the
formats (`lbd.exposition`); HTTP (`lbd.http`).
Names follow HAProxy's exporter where it has one, `lbd_` for `haproxy_`, a service being both its
frontend and its proxy; base units; no client addresses in labels. `docs/metrics.md` is made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from config.schema import Config
from lbd.exposition import Exposition, Family
from lbd.names.metrics import NAME_FAMILIES
from lbd.peers.metrics import PEER_FAMILIES
from lbd.process_metrics import PROCESS_FAMILIES, Process, add_process
from lbd.state_metrics import STATE_FAMILIES, add_states
from lbd.version import version
from shm import layout as lo
from shm import segment
from shm.reader import Reader
from shm.region import Region
from shm.weights import newest_weights
from shm.worker import scalars_view

_NS_PER_S: Final = 1e9

_SERVICE: Final = ("service",)
_SERVER: Final = ("service", "backend")


@dataclass(frozen=True)
class Totals:
    """A counter made of rows of the layout: by row, the values of the labels it has besides."""

    family: Family
    rows: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        name: str,
        help_text: str,
        labels: tuple[str, ...],
        row: str | Mapping[str, tuple[str, ...]],
    ) -> Totals:
        rows = {row: ()} if isinstance(row, str) else row
        return cls(Family(name, "counter", help_text, labels), rows)


SERVER_TOTALS: Final = (
    Totals.of("lbd_server_sessions_total", "Flows given to the backend.", _SERVER, "flows_total"),
    Totals.of(
        "lbd_server_completed_total",
        "Flows that both sides ended in order.",
        _SERVER,
        "completed_total",
    ),
    Totals.of(
        "lbd_server_connection_errors_total",
        "Flows whose backend connection was refused or impossible, or took too long.",
        (*_SERVER, "reason"),
        {"connect_failed_total": ("failed",), "connect_timeout_total": ("timeout",)},
    ),
    Totals.of(
        "lbd_server_local_errors_total",
        "Flows for whose backend connection this machine lacked means: ports, descriptors, memory.",
        _SERVER,
        "local_failed_total",
    ),
    Totals.of(
        "lbd_server_server_aborts_total",
        "Flows that the backend reset.",
        _SERVER,
        "backend_reset_total",
    ),
    Totals.of(
        "lbd_server_response_errors_total",
        "Flows that the backend closed without a byte.",
        _SERVER,
        "backend_silent_total",
    ),
    Totals.of(
        "lbd_server_response_timeouts_total",
        "Flows whose client had asked and whose backend never answered.",
        _SERVER,
        "backend_timeout_total",
    ),
    Totals.of(
        "lbd_server_unanswered_total",
        "Flows that the backend failed before its first byte, in whatever way.",
        _SERVER,
        "unanswered_total",
    ),
    Totals.of(
        "lbd_server_datagrams_total",
        "Datagrams of a UDP service, to the backend and from it.",
        (*_SERVER, "direction"),
        {"datagrams_in_total": ("in",), "datagrams_out_total": ("out",)},
    ),
    Totals.of(
        "lbd_server_datagrams_dropped_total",
        "Datagrams that could not be sent: a full buffer, their size, nobody to send them to.",
        _SERVER,
        "datagrams_dropped_total",
    ),
    Totals.of(
        "lbd_server_exchanges_total",
        "Exchanges begun within flows, where the service counts them.",
        _SERVER,
        "exchanges_total",
    ),
    Totals.of(
        "lbd_server_exchanges_answered_total",
        "Exchanges that got a first byte from the backend.",
        _SERVER,
        "exchanges_answered_total",
    ),
    Totals.of(
        "lbd_server_exchange_seconds_total",
        "Sum of an exchange's first client byte to its first server byte.",
        _SERVER,
        "exchange_ns_total",
    ),
    Totals.of(
        "lbd_server_retry_warnings_total",
        "Flows tried again on the same backend.",
        _SERVER,
        "retried_total",
    ),
    Totals.of(
        "lbd_server_redispatch_warnings_total",
        "Flows that left for another backend.",
        _SERVER,
        "redispatched_total",
    ),
    Totals.of(
        "lbd_server_withdrawn_total",
        "Flows ended by a drain's deadline, or because their backend went down.",
        _SERVER,
        "withdrawn_total",
    ),
    Totals.of(
        "lbd_server_client_aborts_total",
        "Flows that the client reset.",
        _SERVER,
        "client_reset_total",
    ),
    Totals.of(
        "lbd_server_timeouts_total",
        "Flows ended by a limit: no byte for too long, too old, a silent or slow client.",
        (*_SERVER, "limit"),
        {
            "idle_timeout_total": ("idle",),
            "total_timeout_total": ("total",),
            "slow_client_total": ("slow_client",),
        },
    ),
    Totals.of(
        "lbd_server_shutdown_total",
        "Flows ended by a stop of the balancer.",
        _SERVER,
        "shutdown_total",
    ),
    Totals.of(
        "lbd_server_lost_total",
        "Flows that were open in a worker that died.",
        _SERVER,
        "lost_total",
    ),
    Totals.of("lbd_server_bytes_in_total", "Bytes from clients.", _SERVER, "bytes_in_total"),
    Totals.of("lbd_server_bytes_out_total", "Bytes to clients.", _SERVER, "bytes_out_total"),
    Totals.of(
        "lbd_server_client_first_byte_total",
        "Flows whose client has sent a first byte.",
        _SERVER,
        "first_client_byte_total",
    ),
    Totals.of(
        "lbd_server_client_wait_seconds_total",
        "Sum of accepted to the client's first byte.",
        _SERVER,
        "client_wait_ns_total",
    ),
)

HISTOGRAMS: Final = {
    "connect": Family(
        "lbd_server_connect_time_seconds",
        "histogram",
        "From accepted to backend connected.",
        _SERVER,
    ),
    "duration": Family(
        "lbd_server_response_time_seconds",
        "histogram",
        "From backend connected to its first byte: the papers' task duration.",
        _SERVER,
    ),
    "fct": Family(
        "lbd_server_total_time_seconds",
        "histogram",
        "From accepted to closed, of flows that completed.",
        _SERVER,
    ),
}
_SUMS: Final = {kind: f"{kind}_ns_total" for kind in HISTOGRAMS}
COUNTED_BY_HISTOGRAMS: Final = frozenset((*_SUMS.values(), "connected_total", "first_byte_total"))
"""Rows that need no family of their own: a histogram's sum and count say the same."""

CURRENT: Final = Family(
    "lbd_server_current_sessions", "gauge", "Flows in progress: q of the dispatch.", _SERVER
)
WAITING: Final = Family(
    "lbd_server_waiting_sessions",
    "gauge",
    "Flows that are connected and still without a first byte of the backend's.",
    _SERVER,
)
BUSY: Final = Family(
    "lbd_server_busy_sessions",
    "gauge",
    "Flows that are new or wait for an answer: q of the dispatch where exchanges are counted.",
    _SERVER,
)
WEIGHT: Final = Family(
    "lbd_server_weight",
    "gauge",
    "Effective weight: the agent's while its frame is in force, else as configured.",
    _SERVER,
)
CONFIGURED: Final = Family(
    "lbd_server_configured_weight", "gauge", "Weight as configured.", _SERVER
)

_PREFACE_REASONS: Final = (
    "proxy_untrusted",
    "proxy_malformed",
    "proxy_oversized",
    "hello_malformed",
    "sni_unknown",
    "preface_timeout",
    "preface_closed",
)
_DROPS: Final = ("full", "timeout", "shutdown", "lost")
SERVICE_TOTALS: Final = (
    Totals.of(
        "lbd_frontend_connections_total", "Connections accepted.", _SERVICE, "accepted_total"
    ),
    Totals.of(
        "lbd_frontend_no_backend_total",
        "Connections closed for lack of a backend.",
        _SERVICE,
        "no_backend_total",
    ),
    Totals.of(
        "lbd_frontend_accept_pauses_total",
        "Times that accepting stopped: the service was full, or descriptors or memory were short.",
        (*_SERVICE, "reason"),
        {"accept_paused_total": ("full",), "accept_failed_total": ("resources",)},
    ),
    Totals.of(
        "lbd_frontend_queued_total",
        "Flows that had to wait for a backend with room.",
        _SERVICE,
        "queued_total",
    ),
    Totals.of(
        "lbd_frontend_queue_drops_total",
        "Connections closed in the queue, or before it: it was full, they waited too long, the "
        "balancer stopped, their worker died.",
        (*_SERVICE, "reason"),
        {f"queue_{reason}_total": (reason,) for reason in _DROPS},
    ),
    Totals.of(
        "lbd_frontend_sessions_refused_total",
        "Datagrams of a UDP service dropped because they would have opened one session more.",
        _SERVICE,
        "sessions_refused_total",
    ),
    Totals.of(
        "lbd_frontend_sessions_redispatched_total",
        "UDP sessions opened anew because their backend was gone.",
        _SERVICE,
        "sessions_redispatched_total",
    ),
    Totals.of(
        "lbd_frontend_retries_refused_total",
        "Further attempts refused for lack of retry budget.",
        _SERVICE,
        "retry_refused_total",
    ),
    Totals.of(
        "lbd_frontend_refused_total",
        "Connections refused before they were flows. proxy: the PROXY header, or who must not send "
        "one; hello, sni: the TLS ClientHello; preface: either took too long, or was given up by "
        "the client; source: limits a source network.",
        (*_SERVICE, "reason"),
        {
            **{f"{reason}_total": (reason,) for reason in _PREFACE_REASONS},
            "refused_source_connections_total": ("source_connections",),
            "refused_source_rate_total": ("source_rate",),
        },
    ),
    Totals.of(
        "lbd_frontend_shed_total",
        "Connections reset, the newest first: the service was full, or descriptors were short.",
        (*_SERVICE, "reason"),
        {f"shed_{reason}_total": (reason,) for reason in ("full", "descriptors")},
    ),
    Totals.of(
        "lbd_frontend_source_untracked_total",
        "Connections let in uncounted: no room in the table for their source.",
        _SERVICE,
        "source_untracked_total",
    ),
    Totals.of(
        "lbd_frontend_stick_hits_total",
        "Flows that went where their source had been before.",
        _SERVICE,
        "stick_hits_total",
    ),
    Totals.of(
        "lbd_frontend_stick_forgotten_total",
        "Sources forgotten before their time, for want of room in the table.",
        _SERVICE,
        "stick_forgotten_total",
    ),
    Totals.of(
        "lbd_weight_frames_applied_total",
        "Weight frames applied.",
        _SERVICE,
        "frames_applied_total",
    ),
    Totals.of(
        "lbd_weight_frames_refused_total",
        "Weight frames refused: torn; stale: expired or from the future; foreign: made for another "
        "region or other backends; invalid: not positive finite numbers.",
        (*_SERVICE, "reason"),
        {f"frames_{reason}_total": (reason,) for reason in ("torn", "stale", "foreign", "invalid")},
    ),
    Totals.of(
        "lbd_weights_foreign_total",
        "Weights left out of an applied frame: made for a backend that has gone.",
        _SERVICE,
        "weights_foreign_total",
    ),
    Totals.of(
        "lbd_fallback_total",
        "Times that the fallback policy took over in a worker.",
        _SERVICE,
        "fallback_total",
    ),
    Totals.of(
        "lbd_frontend_log_drops_total",
        "Flows' log lines that were dropped because the log was not taken fast enough.",
        _SERVICE,
        "log_dropped_total",
    ),
)
PROCESS_ROW: Final = "log_lines_dropped_total"
"""The one row of a worker's scalars that belongs to its process, not to the service."""
SERVICE_CURRENT: Final = Family(
    "lbd_frontend_current_sessions", "gauge", "Flows in progress.", _SERVICE
)
SERVICE_LIMIT: Final = Family(
    "lbd_frontend_limit_sessions", "gauge", "Flows that the service carries at most.", _SERVICE
)
POLICY: Final = Family(
    "lbd_frontend_policy",
    "gauge",
    "1 for the policy that is configured; and for the fallback, where weights are the agent's.",
    (*_SERVICE, "policy", "role"),
)
IN_FORCE: Final = Family(
    "lbd_agent_weights_in_force",
    "gauge",
    "Workers that go by the agent's weights at this moment.",
    _SERVICE,
)

AGENT_UP: Final = Family(
    "lbd_agent_up", "gauge", "Whether an agent is attached to the service.", _SERVICE
)
AGENT_MODE: Final = Family(
    "lbd_agent_mode", "gauge", "1 for the mode that the agent runs in.", (*_SERVICE, "mode")
)
AGENT_AGE: Final = Family(
    "lbd_agent_heartbeat_age_seconds",
    "gauge",
    "Time since the agent's last step; absent until there was one.",
    _SERVICE,
)
WEIGHT_AGE: Final = Family(
    "lbd_agent_weights_age_seconds",
    "gauge",
    "Time since the newest weights were written; absent until there were some.",
    _SERVICE,
)
AGENT_STEP: Final = Family(
    "lbd_agent_last_step_seconds", "gauge", "What the agent's last step took.", _SERVICE
)
AGENT_REALS: Final = {
    "reward": Family(
        "lbd_agent_reward",
        "gauge",
        "Fairness of the flow durations as the agent last measured it; absent without samples.",
        _SERVICE,
    ),
    "entropy_nats": Family(
        "lbd_agent_entropy_nats",
        "gauge",
        "Entropy of the policy's last choice, mean over the backends, before it is squashed.",
        _SERVICE,
    ),
    "trusted": Family(
        "lbd_agent_policy_trusted",
        "gauge",
        "1 while the monitor lets the policy decide, 0 while it is suspended.",
        _SERVICE,
    ),
    "outside": Family(
        "lbd_agent_inputs_outside_ratio",
        "gauge",
        "Share of the policy's inputs outside of the range that it was trained on.",
        _SERVICE,
    ),
    "excess": Family(
        "lbd_agent_excess_log_ratio",
        "gauge",
        "Mean log flow duration under the policy over that in trials of the heuristic.",
        _SERVICE,
    ),
    "misplaced": Family(
        "lbd_agent_misplaced_flows_ratio",
        "gauge",
        "Share of the flows in progress that are not where the agent's weights should put them; "
        "absent while flows are few.",
        _SERVICE,
    ),
}
AGENT_TOTALS: Final = (
    Totals.of("lbd_agent_steps_total", "Steps of the agent.", _SERVICE, "steps_total"),
    Totals.of("lbd_agent_trials_total", "Trials of the heuristic.", _SERVICE, "trials_total"),
    Totals.of(
        "lbd_agent_suspensions_total",
        "Times the monitor suspended the policy.",
        _SERVICE,
        "suspensions_total",
    ),
    Totals.of("lbd_agent_busy_seconds_total", "Time in steps.", _SERVICE, "step_ns_total"),
    Totals.of(
        "lbd_agent_learner_updates_total",
        "Gradient updates of the learner.",
        _SERVICE,
        "learner_updates_total",
    ),
    Totals.of(
        "lbd_agent_transitions_dropped_total",
        "Steps that the learner was too busy to take.",
        _SERVICE,
        "transitions_dropped_total",
    ),
    Totals.of(
        "lbd_agent_parameters_total",
        "Parameter sets from the learner, by what became of them.",
        (*_SERVICE, "result"),
        {"parameters_loaded_total": ("loaded",), "parameters_refused_total": ("refused",)},
    ),
)

WORKER_AGE: Final = Family(
    "lbd_worker_heartbeat_age_seconds",
    "gauge",
    "Time since the worker last published; absent while there is none.",
    ("service", "worker"),
)
WORKERS: Final = Family("lbd_process_workers", "gauge", "Workers configured.")
BUILD: Final = Family("lbd_process_build_info", "gauge", "Always 1.", ("version",))
STARTED: Final = Family(
    "lbd_process_uptime_seconds", "gauge", "Time since the supervisor was started."
)

FAMILIES: Final[tuple[Family, ...]] = (
    *(totals.family for totals in SERVER_TOTALS),
    *HISTOGRAMS.values(),
    CURRENT,
    WAITING,
    BUSY,
    WEIGHT,
    CONFIGURED,
    *STATE_FAMILIES,
    *NAME_FAMILIES,
    *(totals.family for totals in SERVICE_TOTALS),
    SERVICE_CURRENT,
    SERVICE_LIMIT,
    POLICY,
    IN_FORCE,
    AGENT_UP,
    AGENT_MODE,
    AGENT_AGE,
    WEIGHT_AGE,
    AGENT_STEP,
    *AGENT_REALS.values(),
    *(totals.family for totals in AGENT_TOTALS),
    WORKER_AGE,
    *PEER_FAMILIES,
    *PROCESS_FAMILIES,
    WORKERS,
    BUILD,
    STARTED,
)
"""All that a scrape may hold, in no order that matters."""


class Metrics:
    """Writes scrapes; keeps a reader a region, so that totals never go back."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._version = version()
        self._readers: dict[Region, Reader] = {}

    def write(
        self,
        out: Exposition,
        config: Config,
        regions: Sequence[Region],
        process: Process,
        now_ns: int,
    ) -> None:
        """The scrape of all services, `regions` in their order in `config`, and of the daemon."""
        self._readers = {region: self._readers.get(region) or Reader(region) for region in regions}
        seen = [_Service(reader) for reader in self._readers.values()]
        _servers(out, seen)
        add_states(out, [(one.region, one.entries) for one in seen])
        _services(out, seen, config)
        _agents(out, seen, now_ns)
        out.add(
            WORKER_AGE,
            [
                ((one.name, str(worker)), _age_s(now_ns, beat_ns))
                for one in seen
                for worker, beat_ns in enumerate(one.beats_ns)
                if beat_ns
            ],
        )
        add_process(out, process, sum(one.scalars[PROCESS_ROW] for one in seen))
        out.add(WORKERS, [((), config.workers)])
        out.add(BUILD, [((self._version,), 1)])
        out.add(STARTED, [((), (now_ns - self._started_ns) / _NS_PER_S)])


class _Service:
    """All that one scrape reads of one region."""

    def __init__(self, reader: Reader) -> None:
        region = reader.region
        self.region = region
        self.name = region.service
        self.scalars = reader.scalars()
        self.weights = newest_weights(region)
        workers = [scalars_view(region, w) for w in range(region.layout.workers)]
        self.beats_ns = [int(words[lo.SCALAR["heartbeat_ns"]]) for words in workers]
        self.in_force = sum(int(words[lo.SCALAR["weights_in_force"]]) for words in workers)
        first = region.layout.agent
        words = region.words
        self.agent = {name: words[first + at] for name, at in lo.AGENT_SCALAR.items()}
        self.agent_reals = {name: region.doubles[first + at] for name, at in lo.AGENT_REAL.items()}
        self.agent_up = region.segment.locked(segment.AGENT_BYTE)
        counted = reader.counters().astype(np.int64)
        active = region.active_slots()
        self.flows = int(counted[lo.ROW["flows"], active].sum())
        entries = (region.entry(slot) for slot in active.tolist())
        # One row a name: a backend that was exchanged may still be leaving under the same one.
        newest = sorted(entries, key=lambda entry: entry.identity)
        self.entries = list({entry.name: entry for entry in newest if entry.identity}.values())
        self.labels = [(self.name, entry.name) for entry in self.entries]
        slots = [entry.slot for entry in self.entries]
        self.rows: list[list[int]] = counted[:, slots].tolist()
        """By row of the layout, of the backends shown in the order of `labels`."""
        self.histograms = reader.histograms()[slots]

    def of(self, row: str) -> list[int]:
        return self.rows[lo.ROW[row]]

    def weight(self, row: int) -> float:
        entry, given = self.entries[row], self.weights
        if self.in_force and given is not None and given.known[entry.slot]:
            return float(given.weight[entry.slot])
        return entry.weight


def _servers(out: Exposition, services: Sequence[_Service]) -> None:
    for totals in SERVER_TOTALS:
        out.add(
            totals.family,
            [
                ((*labels, *more), value)
                for one in services
                for name, more in totals.rows.items()
                for labels, value in zip(one.labels, _scaled(name, one.of(name)), strict=True)
            ],
        )
    labels = [labels for one in services for labels in one.labels]
    for kind, family in HISTOGRAMS.items():
        at, row = lo.HISTOGRAM[kind], _SUMS[kind]
        buckets = np.concatenate([one.histograms[:, at] for one in services])
        sums = [total_s for one in services for total_s in _scaled(row, one.of(row))]
        out.add_histogram(family, labels, buckets, sums)
    for family, gauge in ((CURRENT, "flows"), (WAITING, "waiting")):
        out.add(family, _gauge(services, gauge))
    out.add(BUSY, _gauge([one for one in services if one.region.layout.exchanges], "busy"))
    rows = [(one, row) for one in services for row in range(len(one.entries))]
    out.add(WEIGHT, [(one.labels[row], one.weight(row)) for one, row in rows])
    out.add(CONFIGURED, [(one.labels[row], one.entries[row].weight) for one, row in rows])


def _gauge(services: Sequence[_Service], row: str) -> list[tuple[tuple[str, ...], float]]:
    return [pair for one in services for pair in zip(one.labels, one.of(row), strict=True)]


def _services(out: Exposition, services: Sequence[_Service], config: Config) -> None:
    for totals in SERVICE_TOTALS:
        out.add(
            totals.family,
            [
                ((one.name, *more), one.scalars[name])
                for one in services
                for name, more in totals.rows.items()
            ],
        )
    out.add(SERVICE_CURRENT, [((one.name,), one.flows) for one in services])
    out.add(SERVICE_LIMIT, [((s.name,), s.max_connections) for s in config.services])
    out.add(
        POLICY,
        [
            ((s.name, policy, role), 1)
            for s in config.services
            for role, policy in (("configured", s.policy), ("fallback", s.fallback))
            if role == "configured" or s.weights == "agent"
        ],
    )
    out.add(IN_FORCE, [((one.name,), one.in_force) for one in services])


def _agents(out: Exposition, services: Sequence[_Service], now_ns: int) -> None:
    out.add(AGENT_UP, [((one.name,), int(one.agent_up)) for one in services])
    live = [one for one in services if one.agent_up]
    out.add(
        AGENT_MODE,
        [
            ((one.name, lo.AGENT_MODES[one.agent["mode"]]), 1)
            for one in live
            if one.agent["mode"] in lo.AGENT_MODES
        ],
    )
    stepped = [one for one in services if one.agent["heartbeat_ns"]]
    out.add(
        AGENT_AGE,
        [((one.name,), _age_s(now_ns, one.agent["heartbeat_ns"])) for one in stepped],
    )
    out.add(
        WEIGHT_AGE,
        [
            ((one.name,), _age_s(now_ns, one.weights.written_ns))
            for one in services
            if one.weights is not None
        ],
    )
    out.add(AGENT_STEP, [((one.name,), one.agent["step_ns"] / _NS_PER_S) for one in stepped])
    for name, family in AGENT_REALS.items():
        out.add(
            family,
            [
                ((one.name,), one.agent_reals[name])
                for one in live
                if not math.isnan(one.agent_reals[name])
            ],
        )
    for totals in AGENT_TOTALS:
        out.add(
            totals.family,
            [
                ((one.name, *more), _scaled(name, [one.agent[name]])[0])
                for one in stepped
                for name, more in totals.rows.items()
            ],
        )


def _age_s(now_ns: int, then_ns: int) -> float:
    """0 for what happened since `now_ns` was looked at."""
    return max(0, now_ns - then_ns) / _NS_PER_S


def _scaled(row: str, values: list[int]) -> list[float]:
    """In base units."""
    return [value / _NS_PER_S for value in values] if row.endswith("_ns_total") else [*values]
