"""YAML text to plain values that remember their lines.

Lives here: the subset of YAML that is accepted. Plain data only, and no surprises: what YAML reads
in another way than it looks (base 60, octal, dates, merge keys, a key given twice) is refused.
Never here: which keys there are (`schema`); reading files (`load`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import yaml

from config.problem import Loc, Problem, dotted

MAX_DEPTH = 32  # far more than the schema needs; bounds the recursion below
MAX_QUOTED_CHARS = 60
MAX_WHOLE = 2**63 - 1

REFUSED = object()
"""Stands for a value that a problem is already reported for; no schema accepts it."""

_TAG = "tag:yaml.org,2002:"
_ALIAS = "alias"  # the tag of nodes that stand for one
_TRUE = frozenset({"yes", "true", "on"})
_FALSE = frozenset({"no", "false", "off"})
# To YAML the bracket opens a list, and what follows the list is a syntax error.
_BARE_IPV6 = re.compile(r"[\s,]\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]:[0-9]")


@dataclass
class Document:
    """One YAML document: `value` in dicts, lists and scalars, what is wrong with it, its lines.

    `value` is REFUSED if the text is no YAML. `refused` are the places that `problems` already
    cover, so that nothing below them is worth reporting.
    """

    value: object = REFUSED
    problems: list[Problem] = field(default_factory=list)
    refused: set[Loc] = field(default_factory=set)
    nodes: dict[Loc, yaml.Node] = field(default_factory=dict)
    key_lines: dict[Loc, int] = field(default_factory=dict)

    def line(self, loc: Loc) -> int:
        """The line, from 1, of the value at `loc`, or of the innermost that would contain it.

        A mapping or list begins where its key is, or else where its first element is.
        """
        while loc and loc not in self.nodes:
            loc = loc[:-1]
        node = self.nodes.get(loc)
        if node is None:
            return 1
        value_line = int(node.start_mark.line) + 1
        if isinstance(node, yaml.ScalarNode):
            return value_line
        return self.key_lines.get(loc, value_line)

    def found(self, loc: Loc, value: object) -> str:
        """What stands at `loc`, in the operator's own spelling; `value` if nothing does."""
        node = self.nodes.get(loc)
        if node is None:
            return "nothing" if value is None else f"{value} (the default)"
        return describe(node)

    def covers(self, loc: Loc) -> bool:
        """Whether a problem of `loc` itself or of something around it is reported already."""
        return any(loc[:length] in self.refused for length in range(len(loc) + 1))


def parse(text: str) -> Document:
    """The one document in `text`. Never raises: what is wrong is in its `problems`."""
    document = Document()
    try:
        loader = _Composer(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        line = 1 if mark is None else mark.line + 1
        if any(map(_BARE_IPV6.search, text.splitlines()[line - 1 : line])):
            what += "; quote an address that begins with a bracket"
        document.problems.append(_syntax(line, what))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(_syntax(line, f"the character {chr(error.character)!r}"))
    except (ValueError, OverflowError) as error:
        # PyYAML leaves some limits to Python: "\U00110000" is no character.
        document.problems.append(_syntax(loader.line + 1, str(error)))
    else:
        if root is None:
            document.problems.append(
                Problem(1, "(file)", "found nothing in the file, expected a mapping")
            )
        else:
            document.value = _Reading(document).value((), root)
    return document


def describe(node: yaml.Node) -> str:
    """A node for an error message: scalars as they are spelled, collections by their kind."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list" if node.value else "an empty list"
    text = str(node.value)
    if len(text) > MAX_QUOTED_CHARS:
        text = text[:MAX_QUOTED_CHARS] + "..."
    if node.tag == _ALIAS:
        return f"*{text}"
    if node.tag == _TAG + "bool":
        return f"{text}, which YAML reads as true or false (quote it if it is text)"
    if node.tag == _TAG + "str":
        return f'"{text}"'
    return text or "nothing"


def _syntax(line: int, what: str) -> Problem:
    return Problem(line, "(yaml)", f"found a syntax error ({what}), expected YAML")


class _Composer(yaml.SafeLoader):
    """PyYAML's node trees, but of bounded depth, and with an alias left as a node of its own.

    Aliases would make the tree a graph: cyclic, or exponentially large when walked.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode(_ALIAS, alias.anchor, alias.start_mark, alias.end_mark)
        if self.depth == MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"more than {MAX_DEPTH} levels of nesting", mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reading:
    """Turns nodes into values and notes in `document` where they stand and what is wrong."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def value(self, loc: Loc, node: yaml.Node) -> object:
        self.document.nodes[loc] = node
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(loc, node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value((*loc, index), item) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node)
            except ValueError as error:
                self.refuse(loc, f"found {describe(node)}, {error}")
                return REFUSED
        self.refuse(loc, f"found the tag {node.tag}, expected plain data")
        return REFUSED

    def mapping(self, loc: Loc, node: yaml.MappingNode) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _ALIAS:
                self.note(line, loc, f"found {describe(key_node)} as a key, expected a name")
                continue
            # The spelling is the key, whatever its type: no known key looks like another type,
            # so `on: 1` is best reported as an unknown key "on".
            key = str(key_node.value)
            key_loc = (*loc, key)
            if key_node.tag == _TAG + "merge":
                self.note(line, key_loc, "found a merge key, expected the keys written out")
            elif key in values:
                first = self.document.key_lines[key_loc]
                self.note(line, key_loc, f"found again, expected only once (line {first} has it)")
            else:
                self.document.key_lines[key_loc] = line
                values[key] = self.value(key_loc, value_node)
        return values

    def refuse(self, loc: Loc, text: str) -> None:
        self.document.refused.add(loc)
        self.note(self.document.line(loc), loc, text)

    def note(self, line: int, loc: Loc, text: str) -> None:
        self.document.problems.append(Problem(line, dotted(loc), text))


def _scalar(node: yaml.ScalarNode) -> object:
    """The scalar's value. Raises ValueError with what was expected instead."""
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str":
            return text
        case "null":
            return None
        case "bool" if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        case "int":
            return _whole(text)
        case "float":
            return _real(text)
        case "alias":
            raise ValueError("which is an alias; expected the value written out")
        case "timestamp":
            raise ValueError("which YAML reads as a date; expected quotes around text")
        case _:
            raise ValueError(f"with the tag {node.tag}; expected plain data, text in quotes")


def _whole(text: str) -> int:
    if ":" in text:
        raise ValueError(
            "which YAML reads as a number in base 60; expected quotes around text, "
            "or a number in base 10"
        )
    digits = text.lstrip("+-").replace("_", "")
    if len(digits) > 1 and digits.isdecimal() and digits.startswith("0"):
        raise ValueError(
            "which YAML reads as an octal number; expected quotes around text, "
            "or a number without leading zeros"
        )
    try:
        whole = int(text, base=0)
    except ValueError:
        raise ValueError("which is no number; expected digits") from None
    if abs(whole) > MAX_WHOLE:
        raise ValueError(f"expected a number within ±{MAX_WHOLE}")
    return whole


def _real(text: str) -> float:
    if ":" in text:
        raise ValueError(
            "which YAML reads as a number in base 60; expected quotes around text, "
            "or a number in base 10"
        )
    lower = text.lower().replace("_", "")
    if lower.lstrip("+-") in (".inf", ".nan"):
        raise ValueError("expected a finite number")
    try:
        real = float(lower)
    except ValueError:
        raise ValueError("which is no number; expected digits") from None
    if not math.isfinite(real):
        raise ValueError("expected a finite number")
    return real
