"""The script that the launchers start: `launched_worker.py trivial|crash|recover|survive`.

It notes moments as files of `time.monotonic()`, which is one clock for all processes of a machine.

- trivial: ends at once.
- crash: rank 0 exits with 1 as soon as all run; the others wait to be ended.
- recover: the same in the first attempt; in the next one all note that they run and end.
- survive: notes the size of its world and stays as long as the folder, at most two minutes.
"""

import os
import sys
import time

_PARENT = os.getppid()  # a launcher that is killed may leave its workers behind
_FOLDER = os.environ.get("BENCH_FOLDER", "")
_RANK = int(os.environ["RANK"])
_WORLD = int(os.environ.get("WORLD_SIZE", "1"))
_ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _note(name: str) -> None:
    path = f"{_FOLDER}/{name}"
    with open(path, "w") as file:
        file.write(str(time.monotonic()))
    os.rename(path, path + ".time")


def _crash_when_all_run() -> None:
    _note(f"up-{_ATTEMPT}-{_RANK}")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and os.getppid() == _PARENT:
        if _RANK == 0 and all(
            os.path.exists(f"{_FOLDER}/up-{_ATTEMPT}-{rank}.time") for rank in range(_WORLD)
        ):
            _note("crash")
            os._exit(1)
        time.sleep(0.01)


def _stay() -> None:
    _note(f"up-{_WORLD}-{_RANK}")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and os.getppid() == _PARENT and os.path.exists(_FOLDER):
        time.sleep(0.05)


if sys.argv[1] == "crash" or (sys.argv[1] == "recover" and _ATTEMPT == 0):
    _crash_when_all_run()
elif sys.argv[1] == "recover":
    _note(f"up-{_ATTEMPT}-{_RANK}")
elif sys.argv[1] == "survive":
    _stay()
