"""Images, compose file and Kubernetes manifests, as their own tools and our own code judge them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.load import load
from config.schema import Config
from lbctl.cli import DEFAULT_SOCKET

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "deploy" / "containers"
KUBERNETES = ROOT / "deploy" / "kubernetes" / "lbd.yaml"


def tool(name: str, *arguments: str) -> str:
    """Run one that came with this Python's packages; it must be content."""
    done = subprocess.run(
        [Path(sys.executable).parent / name, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def composed() -> dict[str, Any]:
    """The compose file as compose itself understands it."""
    text = tool("docker-compose", "-f", str(CONTAINERS / "compose.yaml"), "config", "--format=json")
    found: dict[str, Any] = json.loads(text)["services"]
    return found


def manifests() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all(KUBERNETES.read_text())}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return found


def test_hadolint_is_content() -> None:
    tool("hadolint", "-c", str(CONTAINERS / ".hadolint.yaml"), str(CONTAINERS / "Dockerfile"))


def test_the_images_hold_all_that_is_installed_and_nothing_else() -> None:
    lines = (CONTAINERS / "Dockerfile").read_text().splitlines()
    copied = {p for line in lines if line.startswith("COPY ") for p in line.split()[1:-1]}
    permitted = {p[1:] for p in (ROOT / ".dockerignore").read_text().split() if p.startswith("!")}
    assert copied - {"--from=build", "--from=build-agent", "/opt/lbd"} == permitted
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"\[tool.setuptools.packages.find\]\ninclude = \[(.*)\]", project)
    assert packages is not None
    assert {name.strip(' "*') for name in packages[1].split(",")} <= permitted


def test_compose_is_content_and_every_name_in_it_is_one() -> None:
    services = composed()
    config = load(CONTAINERS / "lbd.yaml")
    for backend in config.services[0].backends:
        command = services[backend.address.host]["command"]
        assert command[command.index("--listen") + 1] == f"0.0.0.0:{backend.address.port}"
    target = services["load"]["command"][1]
    assert target == f"lbd:{config.services[0].listen.port}"
    assert config.metrics is not None
    published = {port["target"] for port in services["lbd"]["ports"]}
    assert published == {config.services[0].listen.port, config.metrics.port}
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (target,) = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"lbd:{config.metrics.port}"


def test_the_agent_in_compose_shares_memory_and_no_network() -> None:
    services = composed()
    assert services["lbd"]["ipc"] == "shareable"
    assert services["agent"]["ipc"] == "service:lbd"
    assert services["agent"]["network_mode"] == "none"
    stop_s = load(CONTAINERS / "lbd.yaml").services[0].timeouts.drain_s
    assert services["lbd"]["stop_grace_period"] == "1m0s"
    assert stop_s < 60


def test_an_operator_in_the_container_has_lbctl(config: Config) -> None:
    """Its default socket, in a place that the daemon's user may write, on a read-only root."""
    told = DEFAULT_SOCKET
    for one in (config, load(CONTAINERS / "lbd.yaml")):
        assert one.api is not None
        assert str(one.api.listen) == f"unix:{told}"
    folder = str(Path(told).parent)
    service = composed()["lbd"]
    assert (service["container_name"], service["read_only"]) == ("lbd", True)
    assert f"{folder}:uid=10001,gid=10001,mode=0750" in service["tmpfs"]
    mounts = {mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"]}
    assert folder in mounts
    assert pod()["securityContext"]["fsGroup"] == 10001
    # `lbctl top` wants an extra.
    dockerfile = (CONTAINERS / "Dockerfile").read_text()
    assert "-c constraints.txt '.[top]'" in dockerfile


def test_the_shipped_policy_is_what_runs_unless_asked(config: Config) -> None:
    for one in (config, load(CONTAINERS / "lbd.yaml"), load(ROOT / "deploy" / "lbd.yaml")):
        assert (one.agent.mode, one.agent.checkpoint) == ("frozen", None)


def test_kubernetes_is_content() -> None:
    for version in ("1.31.0", "1.34.0"):
        tool("kubernetes-validate", "--strict", "-k", version, str(KUBERNETES))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """What the ConfigMap holds."""
    path = tmp_path / "lbd.yaml"
    path.write_text(manifests()["ConfigMap"]["data"]["lbd.yaml"])
    return load(path)


def test_the_pod_s_ports_and_probes_are_the_configuration_s(config: Config) -> None:
    lbd, _ = pod()["containers"]
    ports = {port["name"]: port["containerPort"] for port in lbd["ports"]}
    assert config.metrics is not None
    assert ports == {"web": config.services[0].listen.port, "metrics": config.metrics.port}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert lbd[probe]["httpGet"]["port"] == "metrics"
    (port,) = manifests()["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    assert pod()["terminationGracePeriodSeconds"] > config.services[0].timeouts.drain_s + 5


def test_the_pod_s_containers_share_memory_and_one_user(config: Config) -> None:
    spec = pod()
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in spec["containers"]:
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert volumes[mounted["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert set(mounted.values()) <= set(volumes)
        assert "runAsUser" not in container["securityContext"]
    # As in the images.
    uid = spec["securityContext"]["runAsUser"]
    assert f"--uid {uid} " in (CONTAINERS / "Dockerfile").read_text()
    assert str(config.agent.save) in {m["mountPath"] for m in spec["containers"][1]["volumeMounts"]}


@pytest.mark.slow
def test_what_compose_starts_works_together(tmp_path: Path) -> None:
    """Without a container engine: the same commands, files and names, in namespaces."""
    path = tmp_path / "services.json"
    path.write_text(json.dumps(composed()))
    script = ROOT / "tests" / "deploy" / "deploy_compose.py"
    done = subprocess.run(
        [
            *"unshare -m -n -i -p --mount-proc --fork --kill-child".split(),
            *(sys.executable, str(script), str(path), "60"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    def values(name: str) -> dict[str, float]:
        return {one["metric"].get("backend", ""): float(one["value"][1]) for one in seen[name]}

    assert (seen["ready"], seen["page"]) == ("ready\n", True)
    assert values("up") == {"": 1}
    assert values("in_force") == {"": 2}, done.stderr
    assert values("errors") == {"": 0}
    flows = values("flows")
    assert flows["slow"] < flows["medium"] < flows["fast"]
    assert "LbdDown" in seen["rules"]
    assert seen["status"]["level"] == "operate"
    (service,) = seen["status"]["services"]
    assert (service["usable"], service["agent"]["mode"]) == (3, "frozen")
