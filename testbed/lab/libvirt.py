"""A topology as KVM guests: libvirt's networks and domains, cloud-init's data, and two scripts.

Lives here: how virtual machines surround guests. Never here: what a guest does (`guest`), a
hypervisor: `./up` and `./down` in the folder are the operator's.

As in the papers, each machine is a guest of its own. `up` writes the name of each network and
guest to `made` before it makes it; `down` removes what `made` names, and nothing else.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import yaml

from testbed.lab import cgroup, guest, wiki
from testbed.lab.guest import Guest
from testbed.lab.packages import names
from testbed.lab.plan import Plan
from testbed.lab.topology import Topology

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = "/source"
_MEMORY_MIB = 1024
_IMAGE = "debian-12-genericcloud-amd64.qcow2"
_POLICY = "#!/bin/sh\nexit 101\n"
_BUILD = ["gcc", "libc6-dev", "make", "python3-dev", "python3-venv"]

_UP = """\
#!/bin/sh
# Brings the guests up. Needs virsh, qemu-img, cloud-localds, and {image}
# in this folder, from https://cloud.debian.org/images/cloud/bookworm/latest/.
set -eu
cd "$(dirname "$0")"
test ! -e made || {{ echo "made is there: ./down first" >&2; exit 1; }}
for network in {networks}; do
    echo "network {prefix}-$network" >> made
    sync made
    virsh net-create "networks/$network.xml"
done
for guest in {guests}; do
    qemu-img create -q -f qcow2 -F qcow2 -b "$PWD/{image}" "guests/$guest/disk.qcow2"
    cloud-localds --network-config="guests/$guest/network-config" "guests/$guest/seed.iso" \\
        "guests/$guest/user-data" "guests/$guest/meta-data"
    echo "guest {prefix}-$guest" >> made
    sync made
    # Transient: it is gone when it is stopped.
    virsh create "guests/$guest/domain.xml"
done
"""

_DOWN = """\
#!/bin/sh
# Removes what up has made, whatever became of it, and nothing else.
set -eu
cd "$(dirname "$0")"
test -e made || exit 0
tac made | while read -r kind name; do
    case $kind in
        guest) if virsh domstate "$name" > /dev/null 2>&1; then virsh destroy "$name"; fi ;;
        network) if virsh net-info "$name" > /dev/null 2>&1; then virsh net-destroy "$name"; fi ;;
    esac
done
rm -f guests/*/disk.qcow2 guests/*/seed.iso made
"""


def render(folder: Path, topology: Topology, plan: Plan, cache: Path = wiki.CACHE) -> None:
    """Write networks, guests, `share/`, `up` and `down` into the folder, which must be empty.

    Raises FileExistsError where something of that is there.
    """
    prefix = f"lbd-{topology.name}-{secrets.token_hex(3)}"
    machines = guest.guests(topology, plan)
    (folder / "share").mkdir(parents=True)
    guest.write_share(folder / "share", topology, plan, cache)
    (folder / "networks").mkdir()
    for name in (guest.FRONT, guest.BACK):
        _write(folder / "networks" / f"{name}.xml", _network(prefix, name))
    for machine in machines:
        own = folder / "guests" / machine.name
        own.mkdir(parents=True)
        _write(own / "domain.xml", domain(prefix, machine, folder.absolute()))
        (own / "user-data").write_text("#cloud-config\n" + _yaml(user_data(machine)))
        (own / "meta-data").write_text(
            _yaml({"instance-id": f"{prefix}-{machine.name}", "local-hostname": machine.name})
        )
        (own / "network-config").write_text(_yaml(network_config(prefix, machine)))
    values = {
        "image": _IMAGE,
        "prefix": prefix,
        "networks": f"{guest.FRONT} {guest.BACK}",
        "guests": " ".join(machine.name for machine in machines),
    }
    for name, script in (("up", _UP.format(**values)), ("down", _DOWN)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


def user_data(machine: Guest) -> dict[str, Any]:
    """cloud-init's, for the guest's one boot."""
    program = "systemd-run --collect --property=LimitNOFILE=65536 --unit=lab-{} -- sh -c {}"
    settings = [f"sysctl -w {name}={value}" for name, value in machine.settings.items()]
    install = [
        f"cp -r {_SOURCE} /tmp/source",
        "make -C /tmp/source install EXTRAS='[agent,testbed]'",
    ]
    return {
        # Debian starts what it installs; here the lab does.
        "bootcmd": [
            f"printf {shlex.quote(_POLICY)} > /usr/sbin/policy-rc.d",
            "chmod 755 /usr/sbin/policy-rc.d",
        ],
        "mounts": [
            ["lab", str(guest.SHARE), "virtiofs", "ro", "0", "0"],
            ["source", _SOURCE, "virtiofs", "ro", "0", "0"],
        ],
        "package_update": True,
        "packages": [*names(), *(_BUILD if machine.lbd else [])],
        "runcmd": [
            *settings,
            *machine.commands,
            *(install if machine.lbd else []),
            *(
                program.format(number, shlex.quote(f"exec {command}"))
                for number, command in enumerate(machine.programs)
            ),
        ],
    }


def network_config(prefix: str, machine: Guest) -> dict[str, Any]:
    """cloud-init's network configuration, version 2: the lab's links, and one to install by."""
    ethernets: dict[str, Any] = {
        name: {
            "match": {"macaddress": _mac(prefix, machine.name, name)},
            "set-name": name,
            "addresses": [str(interface)],
        }
        for name, interface in machine.links.items()
    }
    outside = _mac(prefix, machine.name, "outside")
    ethernets["outside"] = {
        "match": {"macaddress": outside},
        "set-name": "outside",
        "dhcp4": True,
    }
    return {"version": 2, "ethernets": ethernets}


def domain(prefix: str, machine: Guest, folder: Path) -> xml.Element:
    """libvirt's definition of the guest. folder: the rendered one, absolute."""
    cpus = 1 if machine.cores is None else math.ceil(machine.cores)
    root = xml.Element("domain", type="kvm")
    _add(root, "name", f"{prefix}-{machine.name}")
    _add(root, "memory", str(_MEMORY_MIB), unit="MiB")
    backing = _add(root, "memoryBacking")
    # virtiofs works on the guest's own memory.
    _add(backing, "source", type="memfd")
    _add(backing, "access", mode="shared")
    _add(root, "vcpu", str(cpus))
    if machine.cores is not None:
        # libvirt's quota is for each virtual CPU.
        quota_us, period_us = cgroup.quota(machine.cores / cpus)
        tune = _add(root, "cputune")
        _add(tune, "period", str(period_us))
        _add(tune, "quota", str(quota_us))
    system = _add(root, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    features = _add(root, "features")
    _add(features, "acpi")
    _add(root, "cpu", mode="host-passthrough")
    _add(root, "on_poweroff", "destroy")
    devices = _add(root, "devices")
    own = folder / "guests" / machine.name
    disks = (("disk", "qcow2", "disk.qcow2", "vda"), ("cdrom", "raw", "seed.iso", "sda"))
    for device, kind, file, target in disks:
        disk = _add(devices, "disk", type="file", device=device)
        _add(disk, "driver", name="qemu", type=kind)
        _add(disk, "source", file=str(own / file))
        _add(disk, "target", dev=target, bus="virtio" if device == "disk" else "sata")
        if device == "cdrom":
            _add(disk, "readonly")
    for name, shared in (("lab", folder / "share"), ("source", _ROOT)):
        files = _add(devices, "filesystem", type="mount", accessmode="passthrough")
        _add(files, "driver", type="virtiofs")
        _add(files, "source", dir=str(shared))
        _add(files, "target", dir=name)
    for name in (*machine.links, "outside"):
        interface = _add(devices, "interface", type="network")
        _add(interface, "mac", address=_mac(prefix, machine.name, name))
        network = "default" if name == "outside" else f"{prefix}-{name}"
        _add(interface, "source", network=network)
        _add(interface, "model", type="virtio")
    _add(devices, "serial", type="pty")
    _add(devices, "console", type="pty")
    return root


def _network(prefix: str, name: str) -> xml.Element:
    """A link between guests alone: without an address this host takes no part in it."""
    root = xml.Element("network")
    _add(root, "name", f"{prefix}-{name}")
    # Names of interfaces have at most 15 characters.
    _add(root, "bridge", name=f"lbd{_digest(prefix, name)[:8]}", stp="off", delay="0")
    return root


def _mac(prefix: str, machine: str, link: str) -> str:
    """In the range that KVM uses, the same for the same names."""
    digest = _digest(prefix, machine, link)
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _add(parent: xml.Element, tag: str, text: str | None = None, **given: str) -> xml.Element:
    made = xml.SubElement(parent, tag, given)
    made.text = text
    return made


def _write(path: Path, root: xml.Element) -> None:
    xml.indent(root)
    path.write_text(xml.tostring(root, encoding="unicode") + "\n")


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, width=1000)
