"""A child process of a benchmark: `python -m harness.role SPEC`, SPEC being a JSON object.

The module named by `spec["module"]` must have

- `serve(spec, ready)`: serve until killed; call `ready(endpoint)` once clients may start,
- `measure(spec)`: run the load against `spec["endpoint"]` and return what json can dump.

Talks to the parent (`harness.pairs`) by one JSON line on standard output. Ends itself when the
parent closes standard input, dies, or `spec["limit"]` seconds have passed, so that nothing
survives a benchmark that was killed.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import threading
import traceback

__all__ = ()


def main(argv: list[str]) -> int:
    """Run one role and return the exit status."""
    spec = json.loads(argv[1])
    threading.Thread(target=_end_with_parent, args=(spec["limit"],), daemon=True).start()
    module = importlib.import_module(spec["module"])
    try:
        if spec["role"] == "server":
            module.serve(spec, lambda endpoint: _say({"ready": endpoint, "pid": os.getpid()}))
        else:
            _say({"result": module.measure(spec)})
    except Exception as error:
        traceback.print_exc()
        _say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent(limit: float) -> None:
    # select, not read: the wait must have a bound, and it must not hold the lock of sys.stdin.
    select.select([0], [], [], limit)
    os._exit(3)


if __name__ == "__main__":
    # os._exit: peers leave threads and event loops behind that can hang the interpreter's exit.
    status = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
