"""The configuration's way from text to a `Config`, or to problems that name their place.

Lives here: the laws that every input is held to. Never here: rules of the configuration.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["config"]):
    from config.document import REFUSED, parse
    from config.explain import explain
    from config.schema import Config

from pydantic import ValidationError


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    document = parse(text)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + 3
    problems = list(document.problems)
    if document.value is not REFUSED:
        try:
            config = Config.model_validate(document.value)
        except ValidationError as error:
            problems += explain(document, error)
            assert problems
        else:
            # What was accepted can be written down and read again.
            assert Config.model_validate(config.model_dump(mode="json")) == config
    for problem in problems:
        assert 1 <= problem.line <= lines + text.count("\u2028") + text.count("\u2029"), problem
        assert problem.key
        assert problem.text


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
