import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from agent import cli
from agent.commands import GROUP

MODULE = "def greet(arguments):\n    print('hello', *arguments)\n    return 7\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that brings one command."""
    (tmp_path / "lbd_greeting.py").write_text(MODULE)
    about = tmp_path / "lbd_greeting-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lbd-greeting\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\ngreet = lbd_greeting:greet\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin")
def test_a_package_brings_a_command(capsys):
    assert cli.main(["greet", "--loud", "you"]) == 7
    assert capsys.readouterr().out == "hello --loud you\n"


@pytest.mark.usefixtures("plugin")
def test_an_unknown_command_names_those_there_are(capsys):
    assert cli.main(["gret"]) == 2
    error = capsys.readouterr().err
    assert "no command 'gret'" in error
    assert "greet" in error


@pytest.mark.usefixtures("plugin")
def test_a_command_whose_package_is_not_there_says_which(capsys, tmp_path):
    (tmp_path / "lbd_greeting.py").write_text("import no_such_package\n" + MODULE)
    sys.modules.pop("lbd_greeting", None)
    assert cli.main(["greet"]) == 2
    assert "'greet' needs the package 'no_such_package'" in capsys.readouterr().err


def test_the_command_that_the_project_declares_exists():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][GROUP]
    assert set(declared) == {"train"}
    main = EntryPoint("train", declared["train"], GROUP).load()
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
