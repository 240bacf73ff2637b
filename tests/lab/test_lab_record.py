"""A lab's record: on the disk before the thing, readable after any end."""

from __future__ import annotations

import threading
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from testbed.lab.driver import LabError
from testbed.lab.record import Record, Thing, locked
from testbed.lab.topology import find, load_topology

NETWORK = IPv4Network("198.18.4.0/22")


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path, load_topology(find("smoke")), NETWORK)


def test_another_process_finds_all_that_was_intended(record: Record) -> None:
    record.intend("group", record.prefix)
    record.intend("namespace", f"{record.prefix}-client")
    again = Record.find(record.folder.parent, "smoke")
    assert again is not None
    assert again.topology == record.topology
    assert (again.network, again.token) == (NETWORK, record.token)
    assert again.things() == [
        Thing("group", record.prefix),
        Thing("namespace", f"{record.prefix}-client"),
    ]
    assert not again.is_complete
    record.complete()
    assert again.is_complete
    assert len(again.things()) == 2


def test_a_torn_last_line_was_never_begun(record: Record) -> None:
    record.intend("group", "one")
    with (record.folder / "record.jsonl").open("a") as file:
        file.write('{"kind": "namespace", "na')
    assert record.things() == [Thing("group", "one")]


def test_two_of_one_name_are_refused(record: Record) -> None:
    with pytest.raises(OSError, match="not empty"):
        Record.create(record.folder.parent, record.topology, NETWORK)


def test_names_differ_from_lab_to_lab(record: Record, tmp_path: Path) -> None:
    record.remove()
    again = Record.create(tmp_path, record.topology, NETWORK)
    assert again.prefix != record.prefix


def test_a_folder_that_is_no_lab_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(LabError, match="no record"):
        Record.find(tmp_path, "mine")
    assert Record.all(tmp_path) == []
    assert Record.find(tmp_path, "other") is None


def test_nothing_of_a_removed_one_is_left(record: Record, tmp_path: Path) -> None:
    record.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_between_two_names_goes(record: Record, tmp_path: Path) -> None:
    record.folder.rename(tmp_path / f".smoke-{record.token}")
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_what_a_lab_did_not_make_stays(record: Record, tmp_path: Path) -> None:
    """Folders like a record's by their names, but with another's things in them; and files."""
    (tmp_path / ".X11-unix").mkdir()
    (tmp_path / ".smoke-abcdef").mkdir()
    (tmp_path / ".smoke-abcdef" / "thesis.tex").touch()
    (tmp_path / ".smoke-000000").touch()
    (tmp_path / ".smoke-111111").symlink_to(record.folder)
    other = tmp_path / f".other-{record.token}"
    other.mkdir()
    (other / "record.jsonl").write_text((record.folder / "record.jsonl").read_text())
    (tmp_path / ".smoke-222222").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with locked(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == before - {".smoke-222222"}
    assert (tmp_path / ".smoke-abcdef" / "thesis.tex").exists()
    assert Record.find(tmp_path, "smoke") is not None


def test_a_record_under_anothers_name_is_refused(record: Record, tmp_path: Path) -> None:
    record.folder.rename(tmp_path / "other")
    with pytest.raises(LabError, match="no record"):
        Record.find(tmp_path, "other")


def test_one_at_a_time(tmp_path: Path) -> None:
    inside = threading.Event()

    def second() -> None:
        with locked(tmp_path):
            inside.set()

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.1)
    thread.join()
    assert inside.is_set()
