"""The one layout table of a region: where every word is, who writes it, who reads it.

Lives here: offsets and nothing else. Never here: access to memory.

A region is an array of aligned little-endian 64-bit words, so that it also fits a memory-mapped
array that a kernel owns. Times are u64 nanoseconds of CLOCK_MONOTONIC. One writer a word:

    header          supervisor   identity of the region, geometry, heartbeat, active bitmap
    slot table      supervisor   one row a backend: identity, configured weight, name, address
    states          supervisor   one word a slot and row: which backends may be used, and how much
    retired         supervisor   what dead workers had counted, kept so that totals never go back,
                                 then their histograms
    agent           agent        its heartbeat, and `depth` weight frames
    peers           supervisor   where other balancers are heard: the sums of what they tell, live,
                                 and `depth` frames of it
    worker 0..W-1   that worker  scalars, the counter cache, `depth` counter frames, reservoirs,
                                 histograms

A worker's block belongs to the supervisor from the worker's death until its successor starts.
A counter row is one word a slot, contiguous, so that dispatch reads all backends as one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WORD: Final = 8
PAGE: Final = 4096
MAGIC: Final = int.from_bytes(b"LBDSHM\0\0", "little")
VERSION: Final = 4
MAX_SLOTS: Final = 1024
MAX_WORKERS: Final = 64

# Header words. `READY` is written last at creation; a reader that does not find it has no region.
H_MAGIC: Final = 0
H_VERSION: Final = 1
H_READY: Final = 2
H_GENERATION: Final = 3
H_WORKERS: Final = 4
H_SLOTS: Final = 5
H_RESERVOIR: Final = 6
H_DEPTH: Final = 7
H_OWNER_PID: Final = 8
H_CREATED_NS: Final = 9
H_HEARTBEAT_NS: Final = 10
H_NEXT_IDENTITY: Final = 11
H_EPOCH: Final = 12  # odd while the supervisor moves a dead worker's counts to `retired`
H_STATES: Final = 13  # grows with every change of a backend, its weight or its state
H_AGENT_ORDER: Final = 14  # what an operator asks of the agent: AGENT_RUN, _PAUSE or _SHADOW
H_EXCHANGES: Final = 15  # 1 where q counts exchanges, 0 where it counts flows
H_NAME: Final = 16  # 8 words of UTF-8
H_PEERS: Final = 24  # 1 where there is room for what other balancers tell
H_BITMAP: Final = 32  # MAX_SLOTS / 64 words; bit s of word s // 64 is slot s
H_USABLE: Final = 48  # likewise: slots that may get new flows
HEADER_WORDS: Final = 64
NAME_BYTES: Final = 64

AGENT_RUN: Final = 0  # as it was configured
AGENT_PAUSE: Final = 1
AGENT_SHADOW: Final = 2

AGENT_MODES: Final = {1: "learn", 2: "frozen", 3: "shadow", 4: "paused"}
"""What the agent's word `mode` says; paused, it lets its weights expire."""

# Slot table: words of one row.
S_IDENTITY: Final = 0
S_WEIGHT: Final = 1  # f64, as configured
S_NAME: Final = 2  # 6 words
S_ADDRESS: Final = 8  # 34 words: the longest host name and a port
SLOT_WORDS: Final = 48
SLOT_NAME_BYTES: Final = 48
SLOT_ADDRESS_BYTES: Final = 272

# Rows of the states, one word a slot. `flags` are those of `shm.states.Flag`; `share` is f64, the
# part of its fair share of new flows that a backend gets; 0 in `max_flows` and `end_by_ns` is no
# limit.
STATES: Final = (
    "flags",
    "share",
    "max_flows",
    "end_by_ns",
    "since_ns",
    "check_ns",
    "checks_total",
    "checks_failed_total",
    "checks_undone_total",  # this machine lacked the means
    "downs_total",
    "ejections_total",
    "ejections_refused_total",
    "feedback_asked_total",
    "feedback_failed_total",
)
STATE: Final = {name: index for index, name in enumerate(STATES)}

# Counter rows of a worker. The rows that q is summed from are f64 (exact up to 2**53) so that
# dispatch multiplies without a conversion; `waiting_start_ns` is a sum modulo 2**64, from which
# waiting * now - sum is the summed age of the flows that wait. `busy`, `exchanges` and
# `exchanges_start_ns` are to exchanges what `flows`, `waiting` and `waiting_start_ns` are to flows.
GAUGES: Final = (
    "identity",
    "flows",
    "waiting",
    "waiting_start_ns",
    "busy",
    "exchanges",
    "exchanges_start_ns",
)
FLOATS: Final = ("flows", "busy")
TOTALS: Final = (
    "flows_total",
    "connected_total",
    "first_client_byte_total",
    "first_byte_total",
    "completed_total",
    "connect_failed_total",
    "connect_timeout_total",
    "local_failed_total",
    "backend_reset_total",
    "backend_silent_total",
    "backend_timeout_total",
    "client_reset_total",
    "idle_timeout_total",
    "total_timeout_total",
    "slow_client_total",
    "withdrawn_total",
    "shutdown_total",
    "lost_total",  # open in a worker that died
    "bytes_in_total",
    "bytes_out_total",
    "connect_ns_total",
    "client_wait_ns_total",
    "duration_ns_total",
    "fct_ns_total",
    "datagrams_in_total",
    "datagrams_out_total",
    "datagrams_dropped_total",
    "exchanges_total",
    "exchanges_answered_total",
    "exchange_ns_total",
    "unanswered_total",  # failed by the backend before its first byte
    "retried_total",
    "redispatched_total",
)
ROWS: Final = GAUGES + TOTALS
ROW: Final = {name: index for index, name in enumerate(ROWS)}

# What a backend failed, as against what a client or an operator ended.
BACKEND_FAILURES: Final = (
    "connect_failed_total",
    "connect_timeout_total",
    "backend_reset_total",
    "backend_silent_total",
    "backend_timeout_total",
)

# What the edges of a service count.
EDGE_SCALARS: Final = (
    "proxy_untrusted_total",
    "proxy_malformed_total",
    "proxy_oversized_total",
    "hello_malformed_total",
    "sni_unknown_total",
    "preface_timeout_total",
    "preface_closed_total",
    "refused_source_connections_total",
    "refused_source_rate_total",
    "source_untracked_total",
    "shed_full_total",
    "shed_descriptors_total",
    "stick_hits_total",
    "stick_forgotten_total",
)

# Worker scalars, all u64.
SCALARS: Final = (
    "pid",
    "incarnation_ns",
    "heartbeat_ns",
    "last_arrival_ns",
    "weights_seq",
    "weights_in_force",
    "accepted_total",
    "no_backend_total",
    "accept_failed_total",
    "accept_paused_total",
    "frames_applied_total",
    "frames_torn_total",
    "frames_stale_total",
    "frames_foreign_total",
    "frames_invalid_total",
    "weights_foreign_total",
    "fallback_total",
    "sessions_refused_total",
    "sessions_redispatched_total",
    "log_dropped_total",
    *EDGE_SCALARS,
    "queued",
    "queued_total",
    "queue_full_total",
    "queue_timeout_total",
    "queue_shutdown_total",
    "queue_lost_total",  # waited in a worker that died
    "retry_refused_total",
    "log_lines_dropped_total",  # of the process, in the block of its first service
)
SCALAR: Final = {name: index for index, name in enumerate(SCALARS)}
SCALAR_WORDS: Final = 64

# Reservoirs of a backend, in this order; one more, of the service, holds inter-arrival times.
KINDS: Final = ("duration", "fct")
EXCHANGE_KINDS: Final = (*KINDS, "exchange")
SAMPLE_WORDS: Final = 2  # t_ns, value_ns; t_ns is 0 in an empty slot

# Histograms of a backend, in this order; `shm.histogram` has the bounds.
HISTOGRAMS: Final = ("connect", "duration", "fct")
HISTOGRAM: Final = {name: index for index, name in enumerate(HISTOGRAMS)}
HISTOGRAM_BUCKETS: Final = 90

FRAME_HEAD_WORDS: Final = 2  # sequence (0 while being written), written_ns

# Agent scalars.
AGENT_SCALARS: Final = (
    "pid",
    "incarnation_ns",
    "heartbeat_ns",
    "steps_total",
    "mode",
    "step_ns",
    "learner_updates_total",
    "transitions_dropped_total",
    "step_ns_total",
    "parameters_loaded_total",
    "parameters_refused_total",
    "trials_total",
    "suspensions_total",
)
AGENT_SCALAR: Final = {name: index for index, name in enumerate(AGENT_SCALARS)}
# After them, f64: NaN where the last step had none.
AGENT_REALS: Final = ("reward", "entropy_nats", "trusted", "outside", "excess", "misplaced")
AGENT_REAL: Final = {name: len(AGENT_SCALARS) + at for at, name in enumerate(AGENT_REALS)}
AGENT_SCALAR_WORDS: Final = 24

# Weight frame head; then one row of identities and one row of f64 weights.
W_SEQUENCE: Final = 0
W_GENERATION: Final = 1
W_WRITTEN_NS: Final = 2
W_EXPIRES_NS: Final = 3
W_OFFSET: Final = 4  # f64: what dispatch adds to q
WEIGHT_HEAD_WORDS: Final = 5


# What other balancers tell, summed over them. `expires_ns`: until when the gauges hold, 0 while
# nobody is heard.
PEER_SCALARS: Final = ("expires_ns",)
PEER_SCALAR: Final = {name: index for index, name in enumerate(PEER_SCALARS)}
PEER_SCALAR_WORDS: Final = 8

# Rows of the peers' block, one word a slot. What they are to depends on what q counts (see
# `PEER_SOURCES`); `q` is f64, as the row is that dispatch adds it to. Totals grow by what others
# count from when they are first heard.
PEER_GAUGES: Final = ("q", "waiting", "waiting_start_ns")
PEER_TOTALS: Final = (
    "arrivals_total",
    "answers_total",
    "duration_ns_total",
    "unanswered_total",
    "failures_total",
)
PEER_ROWS: Final = ("identity", *PEER_GAUGES, *PEER_TOTALS)
PEER_ROW: Final = {name: index for index, name in enumerate(PEER_ROWS)}

# By `exchanges`: of which of a worker's rows a balancer tells as what; but of the failures, which
# are the sum of BACKEND_FAILURES.
PEER_SOURCES: Final = (
    {
        "q": "flows",
        "waiting": "waiting",
        "waiting_start_ns": "waiting_start_ns",
        "arrivals_total": "flows_total",
        "answers_total": "first_byte_total",
        "duration_ns_total": "duration_ns_total",
        "unanswered_total": "unanswered_total",
    },
    {
        "q": "busy",
        "waiting": "exchanges",
        "waiting_start_ns": "exchanges_start_ns",
        "arrivals_total": "exchanges_total",
        "answers_total": "exchanges_answered_total",
        "duration_ns_total": "exchange_ns_total",
        "unanswered_total": "unanswered_total",
    },
)


@dataclass(frozen=True)
class Layout:
    """Word offsets of a region for one geometry.

    workers: blocks. slots: backends at most. reservoir: samples kept a worker, backend and kind.
    depth: frames of multi-buffering, the papers' m. exchanges: 1 where q counts exchanges, which
    then have a kind of sample of their own. peers: 1 where other balancers are heard. Raises
    ValueError where the geometry is outside the limits above.
    """

    workers: int
    slots: int
    reservoir: int
    depth: int = 4
    exchanges: int = 0
    peers: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("workers", 1, MAX_WORKERS),
            ("slots", 1, MAX_SLOTS),
            ("reservoir", 1, 65536),
            ("depth", 2, 16),
            ("exchanges", 0, 1),
            ("peers", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {low} to {high}")

    @property
    def slot_table(self) -> int:
        return HEADER_WORDS

    @property
    def cache_words(self) -> int:
        return len(ROWS) * self.slots

    @property
    def frame_words(self) -> int:
        return FRAME_HEAD_WORDS + self.cache_words

    @property
    def states(self) -> int:
        return self.slot_table + SLOT_WORDS * self.slots

    @property
    def retired(self) -> int:
        return self.states + len(STATES) * self.slots

    @property
    def histogram_words(self) -> int:
        return self.slots * len(HISTOGRAMS) * HISTOGRAM_BUCKETS

    @property
    def retired_histograms(self) -> int:
        return self.retired + SCALAR_WORDS + self.cache_words

    @property
    def agent(self) -> int:
        return self.retired_histograms + self.histogram_words

    @property
    def weight_frame_words(self) -> int:
        return WEIGHT_HEAD_WORDS + 2 * self.slots

    def weight_frame(self, index: int) -> int:
        return self.agent + AGENT_SCALAR_WORDS + index * self.weight_frame_words

    @property
    def peers_start(self) -> int:
        return self.weight_frame(self.depth)

    @property
    def peer_rows_words(self) -> int:
        return len(PEER_ROWS) * self.slots

    @property
    def peer_rows(self) -> int:
        return self.peers_start + PEER_SCALAR_WORDS

    @property
    def peer_frame_words(self) -> int:
        return FRAME_HEAD_WORDS + self.peer_rows_words

    def peer_frame(self, index: int) -> int:
        return self.peer_rows + self.peer_rows_words + index * self.peer_frame_words

    @property
    def workers_start(self) -> int:
        return self.peer_frame(self.depth) if self.peers else self.peers_start

    @property
    def kinds(self) -> tuple[str, ...]:
        return EXCHANGE_KINDS if self.exchanges else KINDS

    @property
    def reservoir_words(self) -> int:
        return (len(self.kinds) * self.slots + 1) * self.reservoir * SAMPLE_WORDS

    @property
    def worker_words(self) -> int:
        frames = self.depth * self.frame_words
        return (
            SCALAR_WORDS + self.cache_words + frames + self.reservoir_words + self.histogram_words
        )

    def worker(self, index: int) -> int:
        return self.workers_start + index * self.worker_words

    def cache(self, worker: int) -> int:
        return self.worker(worker) + SCALAR_WORDS

    def frame(self, worker: int, index: int) -> int:
        return self.cache(worker) + self.cache_words + index * self.frame_words

    def reservoirs(self, worker: int) -> int:
        """First sample of (kind, slot); kinds outermost. The service's own reservoir is last."""
        return self.frame(worker, self.depth)

    def histograms(self, worker: int) -> int:
        """First bucket of (slot, kind); slots outermost."""
        return self.reservoirs(worker) + self.reservoir_words

    @property
    def total_bytes(self) -> int:
        used = self.worker(self.workers) * WORD
        return -(-used // PAGE) * PAGE
