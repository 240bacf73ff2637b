"""The reference page and the example stay in step with the schema."""

from pathlib import Path

from config.load import load
from config.reference import page

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_what_the_models_say():
    assert (ROOT / "docs/configuration.md").read_text() == page()


def test_the_example_is_valid():
    assert load(ROOT / "deploy/lbd.yaml").services[0].name == "web"
