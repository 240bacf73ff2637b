"""`python -m testbed lab`: topologies up, down, looked at.

Lives here: the flags, and what is printed. Never here: the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from config.problem import ConfigError
from testbed.lab.driver import LabError
from testbed.lab.topology import Site, Topology, find, load_topology, names

if TYPE_CHECKING:
    from testbed.lab.namespaces import NamespaceLab, Namespaces

# The figures are complete, but the host did not give what the quotas promise.
EXIT_NOT_BELIEVABLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="bring a topology up in network namespaces")
    _add_topology(up)
    down = actions.add_parser("down", help="remove a lab, whatever is left of it")
    down.add_argument("name", help="of its topology")
    actions.add_parser("status", help="which labs there are")
    calibrate = actions.add_parser("calibrate", help="find out what its servers can do")
    _add_topology(calibrate)
    calibrate.add_argument("--seconds", type=float, default=8.0, help="for each site")
    calibrate.add_argument("--save", type=Path, metavar="FILE.json", help="write the figures")
    render = actions.add_parser("render", help="write it as containers or as virtual machines")
    _add_topology(render)
    render.add_argument("--as", dest="kind", choices=["compose", "libvirt"], required=True)
    render.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="new, or empty")
    for action in actions.choices.values():
        action.add_argument(
            "--root", type=Path, help="where labs are recorded (default: /run/lbd-lab)"
        )


def _add_topology(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topology", metavar="TOPOLOGY", help=f"a YAML file, or one of {', '.join(names())}"
    )
    parser.add_argument(
        "--site", choices=get_args(Site), help="on every Apache server (default: the file's)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; 1 where that is not possible."""
    try:
        return _run(args)
    except (LabError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    # Netlink is needed by those who make labs only.
    from testbed.lab.namespaces import ROOT, Namespaces

    driver = Namespaces(args.root or ROOT)
    match args.action:
        case "up":
            _show(driver.up(_topology(args)))
        case "down":
            print(f"{args.name}: {'removed' if driver.down(args.name) else 'nothing to remove'}")
        case "status":
            _status(driver)
        case "calibrate":
            return _calibrate(driver, _topology(args), args.seconds, args.save)
        case "render":
            _render(_topology(args), args.kind, args.to)
    return 0


def _render(topology: Topology, kind: str, to: Path) -> None:
    from testbed.lab import compose, libvirt, network, plan

    if to.exists() and any(to.iterdir()):
        raise LabError(f"{to} is not empty")
    free = plan.free_network(network.networks_here())
    if free is None:
        raise LabError(f"no network of {plan.POOL} is free here")
    layout = plan.lay_out(topology, free)
    match kind:
        case "compose":
            compose.render(to, topology, layout)
            print(f"docker compose -f {to}/compose.yaml up --build")
        case "libvirt":
            libvirt.render(to, topology, layout)
            print(f"{to}/up; {to}/down")


def _calibrate(driver: Namespaces, topology: Topology, seconds: float, save: Path | None) -> int:
    """In the lab that is up, or in one for this only."""
    from testbed.lab.calibrate import calibrate

    was_up = driver.find(topology.name) is not None
    lab = driver.up(topology)
    try:
        found = calibrate(lab, seconds)
    finally:
        if not was_up:
            driver.down(topology.name)
    for one in found:
        print(
            f"{one.site}: {one.rate_per_s:.1f} requests/s, {one.cpu_ms:.2f} ms CPU a request, "
            f"{one.database_ms:.2f} ms of the database's"
        )
        for server in one.servers:
            print(
                f"  {server.server:12} {server.cores:6g} cores {server.rate_per_s:8.1f} requests/s "
                f"{server.cpu_ms:8.2f} ms  {server.quota_used:5.0%} of its quota"
            )
    if save is not None:
        save.write_text(json.dumps([one.as_data() for one in found], indent=2) + "\n")
    if not all(one.believable for one in found):
        print("not believable: a server had less CPU time than its quota; is the host busy?")
        return EXIT_NOT_BELIEVABLE
    return 0


def _topology(args: argparse.Namespace) -> Topology:
    topology = load_topology(find(args.topology))
    return topology if args.site is None else topology.serving(args.site)


def _status(driver: Namespaces) -> None:
    for name, lab in driver.labs().items():
        if lab is None:
            print(f"{name}: incomplete; `lab down {name}` removes what is left of it")
        else:
            _show(lab)


def _show(lab: NamespaceLab) -> None:
    print(f"{lab.topology.name}: http://{lab.vip}:{lab.port}/ from the client")
    print(f"  {'machine':12} {'address':16} {'cores':>6} {'CPU s':>8}  namespace")
    cores = {server.name: server.cores for server in lab.topology.servers}
    for machine in lab.machines:
        share = cores.get(machine.name)
        print(
            f"  {machine.name:12} {machine.address:16} {share if share else '-':>6} "
            f"{machine.cpu_ns() / 1e9:8.2f}  {machine.namespace}"
        )
