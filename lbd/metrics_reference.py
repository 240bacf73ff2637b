"""The metrics' reference page, from the families: `python -m lbd.metrics_reference`.

Lives here: the page. Never here: a name or a help text; each stands at its family in `metrics`.
"""

from __future__ import annotations

from lbd.metrics import FAMILIES

_GROUPS = {
    "lbd_server_": "A backend",
    "lbd_frontend_": "A service",
    "lbd_weight": "Weights on their way from the agent",
    "lbd_fallback": "Weights on their way from the agent",
    "lbd_agent_": "The agent",
    "lbd_worker_": "Workers",
    "lbd_peer_": "Other balancers",
    "lbd_process_": "The daemon",
}

_HEAD = """\
# Metrics

`metrics: "host:port"` in the configuration serves them at `/metrics`, from the supervisor, read out
of the shared memory at each scrape. Names are those of HAProxy's exporter where it has one, with
`lbd_` for `haproxy_`; labels are `service` and `backend`, or `peer` for another balancer. Units are
seconds and bytes. Totals do not go back when a worker or the agent dies; they start again when the
daemon does.

Histograms are native ones of schema 2, four buckets an octave from 15 us to 64 s, for a Prometheus
that asks for protobuf: 2.40 and later with `--enable-feature=native-histograms`, newer ones with
`scrape_native_histograms: true`. The text format, which cannot carry them, has the powers of two as
buckets. Protobuf has these too; `always_scrape_classic_histograms: true` (before 3.0
`scrape_classic_histograms`) keeps them, which the dashboard and the alerts in `deploy/` need.
Histograms are recorded only while `metrics` is configured.

This page is made by `python -m lbd.metrics_reference > docs/metrics.md`.
"""


def page() -> str:
    """Markdown: a table a group, a row a metric."""
    parts = [_HEAD]
    for title in dict.fromkeys(_GROUPS.values()):
        parts.append(f"## {title}\n\n| metric | type | labels | |\n|---|---|---|---|")
        parts += [
            f"| `{family.name}` | {family.kind} | "
            f"{', '.join(f'`{label}`' for label in family.labels)} | {family.help} |"
            for family in FAMILIES
            if _group(family.name) == title
        ]
        parts.append("")
    return "\n".join(parts)


def _group(name: str) -> str:
    return next(title for prefix, title in _GROUPS.items() if name.startswith(prefix))


if __name__ == "__main__":
    print(page(), end="")
