"""examples/wordcount.py on real workers: its totals are those of a single process."""

from __future__ import annotations

import keyword
import re
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from tests.examples.launched import numbers_of, run_example

pytestmark = pytest.mark.slow

STDLIB = Path(sysconfig.get_path("stdlib"))


def run_wordcount(*arguments: str, workers: int = 4, timeout: float) -> str:
    """Run the example as the README does and return what it prints."""
    return run_example("wordcount.py", *arguments, workers=workers, timeout=timeout).stdout


def count_alone(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the identifiers below a folder, and files, skipped and tokens, in one process."""
    words: Counter[str] = Counter()
    done: Counter[str] = Counter(files=0, skipped=0, tokens=0)
    for path in folder.rglob("*.py"):
        if {"site-packages", "dist-packages"}.isdisjoint(path.relative_to(folder).parts):
            try:
                with path.open("rb") as file:
                    tokens = list(tokenize.tokenize(file.readline))[1:]  # without the encoding
            except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
                done["skipped"] += 1
                continue
            done["files"] += 1
            done["tokens"] += len(tokens)
            words.update(t.string for t in tokens if t.type == tokenize.NAME)
    for word in keyword.kwlist:
        del words[word]
    return words, done


def words_of(output: str) -> dict[str, int]:
    """Return the words that the example prints, with their counts."""
    pairs = re.findall(r"^ *([\d,]+)  (\w+)$", output, re.MULTILINE)
    return {word: int(number.replace(",", "")) for number, word in pairs}


def check(output: str, folder: Path, workers: int) -> None:
    """Compare what the example printed with a count in this process."""
    words, done = count_alone(folder)
    numbers = numbers_of(output)
    top = dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:20])

    assert list(top.items()) == list(words_of(output).items())
    assert dict(done) == {name: int(numbers[name]) for name in done}
    assert words.total() == numbers["identifiers"]
    assert len(words) == numbers["distinct"]
    assert workers == numbers["workers"]
    assert 0 < numbers["calls"] <= numbers["files"] * workers
    assert numbers["calls/s"] > 0


@pytest.mark.parametrize("workers", [1, 4])
def test_totals_equal_a_single_process_count(workers: int) -> None:
    """Some files of the standard library, on one worker and on four."""
    folder = STDLIB / "asyncio"

    check(run_wordcount(str(folder), workers=workers, timeout=18), folder, workers)


def test_broken_files_are_skipped_and_counted(tmp_path: Path) -> None:
    """Files that are not Python, and packages installed below the folder, are left out."""
    (tmp_path / "good.py").write_text("spam = eggs(spam)\n")
    (tmp_path / "broken.py").write_text("(\n")
    (tmp_path / "latin.py").write_bytes(b"name = '\xff'\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text("other = 1\n")

    output = run_wordcount(str(tmp_path), workers=2, timeout=18)

    assert words_of(output) == {"spam": 2, "eggs": 1}
    assert (numbers_of(output)["files"], numbers_of(output)["skipped"]) == (1, 2)


@pytest.mark.timeout(300)
def test_the_whole_standard_library() -> None:
    """What `make demo` runs: every file of the standard library, on four workers."""
    check(run_wordcount(timeout=200), STDLIB, workers=4)
