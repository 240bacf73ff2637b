"""The agent-check parser: HAProxy's words mean what its manual says.

The words are those of its configuration manual, `agent-check`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.health.feedback import MAX_BYTES, MAX_FLOWS, MAX_PERCENT, Feedback, parse

WORDS = {
    "75%": Feedback(share=0.75),
    "0%": Feedback(share=0.0),
    "100%": Feedback(share=1.0),
    "256%": Feedback(share=2.56),
    "maxconn:30": Feedback(max_flows=30),
    "maxconn:0": Feedback(max_flows=0),
    "ready": Feedback(admin="ready"),
    "drain": Feedback(admin="drain"),
    "maint": Feedback(admin="maint"),
    "up": Feedback(up=True),
    "down": Feedback(up=False),
    "fail": Feedback(up=False),
    "failed": Feedback(up=False),
    "stopped": Feedback(up=False),
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("form", ["{}\n", "{}\r\n", "{}", " {} ,\t\n", "{}\nmaint down 1%\n"])
def test_every_word_is_understood_in_every_form(word: str, form: str) -> None:
    assert parse(form.format(word).encode()) == WORDS[word]
    assert parse(form.format(word.upper()).encode()) == WORDS[word]


def test_words_go_together_and_a_reason_may_follow() -> None:
    assert parse(b"up, ready 50%\tmaxconn:7 # all well, down soon\n") == Feedback(
        share=0.5, max_flows=7, admin="ready", up=True, reason="all well, down soon"
    )
    assert parse(b"down#disk full\n") == Feedback(up=False, reason="disk full")


@pytest.mark.parametrize(
    "text", ["", "\n", "#up", "%", "-5%", "5.5%", "5 %", "maxconn:", "maxconn:-1", "upp", "maxconn"]
)
def test_what_is_not_understood_changes_nothing(text: str) -> None:
    found = parse(text.encode())
    assert (found.share, found.max_flows, found.admin, found.up) == (None, None, None, None)


@given(st.binary(max_size=2 * MAX_BYTES))
def test_any_bytes_have_an_answer_within_its_bounds(answer: bytes) -> None:
    found = parse(answer)
    assert found.share is None or 0 <= found.share <= MAX_PERCENT / 100
    assert found.max_flows is None or 0 <= found.max_flows <= MAX_FLOWS
    assert found.reason.isprintable()
    assert len(found.reason) <= MAX_BYTES


@given(
    st.lists(st.sampled_from([*WORDS, "nonsense", "12", "%%"]), max_size=20),
    st.sampled_from([" ", ",", "\t", ", "]),
)
def test_of_several_words_of_a_kind_the_last_counts(words: list[str], between: str) -> None:
    found = parse(between.join(words).encode() + b"\n")
    for field in ("share", "max_flows", "admin", "up"):
        said = [getattr(WORDS[word], field) for word in words if word in WORDS]
        expected = [value for value in said if value is not None]
        assert getattr(found, field) == (expected[-1] if expected else None)
