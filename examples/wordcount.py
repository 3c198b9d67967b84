"""Count the identifiers of Python's standard library on all workers of a job.

Run it on four workers of this machine::

    python -m launcher --standalone --nproc-per-node 4 examples/wordcount.py

Each worker reads its part of the files. Each also owns a part of the words: whoever meets a word
sends how often to its owner, so the counts are merged by calls that all workers make to all others
at the same time. In the end rank 0 asks the owners for their parts and prints the totals.
"""

from __future__ import annotations

import asyncio
import keyword
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from pathlib import Path
from zlib import crc32

import asyncrpc as rpc

owned: Counter[str] = Counter()
"""The counts of the words that this worker owns."""


async def add(counts: dict[str, int]) -> None:
    """Add counts of words this worker owns; the other workers call this."""
    owned.update(counts)  # on the event loop, as every `async def`: no lock is needed


async def get_owned() -> dict[str, int]:
    """Return the counts of all words this worker owns."""
    return dict(owned)


def find_files(folder: Path) -> list[Path]:
    """Return the Python files below the folder, but no installed packages, in a fixed order."""
    packages = {"site-packages", "dist-packages"}
    return sorted(
        path for path in folder.rglob("*.py") if packages.isdisjoint(path.relative_to(folder).parts)
    )


def read_file(path: Path) -> tuple[int, Counter[str]] | None:
    """Return the number of tokens and the identifiers of a file, None if it is not Python."""
    try:
        with tokenize.open(path) as file:
            tokens = list(tokenize.generate_tokens(file.readline))
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return None  # the standard library's tests keep such files on purpose
    names = (token.string for token in tokens if token.type == tokenize.NAME)
    return len(tokens), Counter(name for name in names if not keyword.iskeyword(name))


def split(counts: Counter[str], parts: int) -> list[dict[str, int]]:
    """Split the counts by the owner of each word: every worker must come to the same answer."""
    shares: list[dict[str, int]] = [{} for _ in range(parts)]
    for word, count in counts.items():
        shares[crc32(word.encode()) % parts][word] = count
    return shares


async def count_files(files: list[Path], workers: list[rpc.WorkerInfo]) -> Counter[str]:
    """Count some files, send each worker what it owns, and return how much there was of what."""
    done: Counter[str] = Counter()
    async with rpc.wait_all():  # waits for the calls started inside, raises if one failed
        for path in files:
            # Tokenizing takes a while: in a thread, the loop stays free for the others' calls.
            result = await asyncio.to_thread(read_file, path)
            if result is None:
                done["skipped"] += 1
                continue
            tokens, counts = result
            done["files"] += 1
            done["tokens"] += tokens
            for worker, share in zip(workers, split(counts, len(workers)), strict=True):
                if share:
                    rpc.rpc_async(worker, add, args=(share,))
                    done["calls"] += 1
    return done


def show(done: Counter[str], counts: Counter[str], workers: int, seconds: float) -> None:
    """Print the twenty most frequent words and what it took to count them."""
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]:
        print(f"{count:12,}  {word}")
    print(f"files: {done['files']:,}, skipped: {done['skipped']:,}")
    print(f"tokens: {done['tokens']:,}, identifiers: {counts.total():,}, distinct: {len(counts):,}")
    print(f"workers: {workers}, seconds: {seconds:.2f}")
    print(f"calls: {done['calls']:,}, calls/s: {done['calls'] / seconds:,.0f}")


async def main(files: list[Path]) -> None:
    """Take part in the count as one of the workers."""
    async with rpc.init_rpc() as agent:
        start = time.perf_counter()
        workers = sorted(rpc.get_worker_infos(), key=lambda worker: worker.id)
        rank, size = agent.info.id, len(workers)
        if rank == 0:
            print(f"counting {len(files):,} files on {size} workers", flush=True)

        done = await count_files(files[rank::size], workers)
        # Gives every worker's numbers once all have come here: all counts are with their owners.
        numbers = await rpc.all_gather(dict(done), timeout=None)  # however long the slowest takes

        if rank == 0:
            total: Counter[str] = Counter()
            for number in numbers.values():
                total.update(number)
            shards = await asyncio.gather(*(rpc.rpc_async(w, get_owned) for w in workers))
            counts = Counter({word: count for shard in shards for word, count in shard.items()})
            show(total, counts, size, time.perf_counter() - start)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")
    rpc.run(main(find_files(Path(folder))))
