"""The pages that servers serve, generated: the same at each run.

Lives here: the PHP for-loop page, static files, the wiki's text. Never here: who serves them.

The papers replay a trace against Wikipedia's own pages; those are as large as these on average and
as different from each other, and of `COUNT` of each kind.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

COUNT = 400
ALIVE = "alive.txt"
_SEED = 20_260
_STATIC_MEAN_BYTES = 12_000
_SIZE_SIGMA = 0.5
_VOCABULARY = tuple(
    "".join(word) for word in itertools.product("bdfglmnprstv", "aeiou", "klmnrst", "aeiou")
)
_WORD_MEAN_BYTES = 5

LOOP = """\
<?php
// As on the papers' page, the bound stays the string that it is in the query, which makes the
// comparison about three times as dear as the loop; and what is sent grows with the work.
header('Content-Type: text/plain');
$n = $_GET['n'] ?? '0';
for ($i = 1; $i <= $n; $i++) {
    if ($i % 4000 == 0) {
        echo $i, "\\n";
    }
}
"""


def title(number: int) -> str:
    """Of a wiki page."""
    return f"Page_{number}"


def wiki_target(number: int) -> str:
    """Of a wiki page: what a client asks for."""
    return f"/wiki/index.php/{title(number)}"


def static_target(number: int) -> str:
    """Of a static file."""
    return f"/static/{number}.html"


def loop_target(iterations: int) -> str:
    """Of the for-loop page, as the recorded traces have it."""
    return f"/dummy.php/?n={iterations}"


def write_site(folder: Path) -> None:
    """What every Apache serves but the wiki: `dummy.php`, `static/N.html`, a sign of life."""
    (folder / "static").mkdir(parents=True)
    (folder / "dummy.php").write_text(LOOP)
    (folder / ALIVE).write_text("alive\n")
    rng = random.Random(_SEED)
    for number in range(COUNT):
        size = round(_STATIC_MEAN_BYTES * rng.lognormvariate(-(_SIZE_SIGMA**2) / 2, _SIZE_SIGMA))
        text = " ".join(_words(rng, size // _WORD_MEAN_BYTES))
        (folder / "static" / f"{number}.html").write_text(f"<html><body>{text}</body></html>\n")


def wiki_texts() -> dict[str, str]:
    """Every wiki page's wikitext by its title."""
    rng = random.Random(_SEED + 1)
    return {title(number): _wikitext(rng) for number in range(COUNT)}


def _wikitext(rng: random.Random) -> str:
    sections = 1 + round(rng.lognormvariate(1.0, _SIZE_SIGMA))
    parts = [_linked(rng, 100)]
    for section in range(sections):
        name, *words = _words(rng, 28)
        parts.append(f"== {name.title()} {section + 1} ==\n{_linked(rng, 150)}")
        if rng.random() < 0.5:
            parts.append("\n".join(f"* '''{word}''': {_linked(rng, 10)}" for word in words[:6]))
        if rng.random() < 0.3:
            rows = "\n|-\n".join(f"| {word} || {rng.randrange(10**6)}" for word in words[6:14])
            parts.append(f'{{| class="wikitable"\n! Name !! Number\n|-\n{rows}\n|}}')
    return "\n\n".join(parts) + "\n\n[[Category:Generated]]\n"


def _linked(rng: random.Random, count: int) -> str:
    """So many words, one in 25 of which leads to another page."""
    words = _words(rng, count)
    for at in range(0, count, 25):
        words[at] = f"[[{title(rng.randrange(COUNT))}|{words[at]}]]"
    return " ".join(words)


def _words(rng: random.Random, count: int) -> list[str]:
    return rng.choices(_VOCABULARY, k=count)
