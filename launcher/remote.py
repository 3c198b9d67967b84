"""The far side of a launch by ssh: ``python -m launcher.remote`` is what runs on each host.

It says where this host can be met, reads what to launch, and is the launcher from then on. Both go
over the standard streams of ssh: the first line of stdout is the greeting; stdin brings the launch
and later the signals, and its end means that whoever launched is gone. Started by `ssh`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from typing import Any, BinaryIO

from launcher.hosts import GREETING
from launcher.rendezvous import free_port

__all__ = ("main",)


def main() -> int:
    """Launch what stdin says, and follow its signals until it ends.

    Returns:
        The exit status of the launcher.
    """
    control = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # workers shall not read what is meant for us
    print(GREETING + json.dumps(_facts()), flush=True)  # noqa: T201 -- to the near side
    line = control.readline()
    if not line:
        return 1  # it has changed its mind
    order: dict[str, Any] = json.loads(line)
    try:
        os.chdir(order["folder"])
    except OSError as error:
        reason = f"the folder {order['folder']} cannot be entered: {error.strerror}"
        print(f"launcher: {reason}", file=sys.stderr)  # noqa: T201 -- a command line talks
        return 1
    os.environ.update(order["environ"])
    with tempfile.NamedTemporaryFile(prefix="launcher-secret-") as file:  # 0600
        file.write(bytes.fromhex(order["secret"]))
        file.flush()
        os.environ["ASYNCRPC_SECRET_FILE"] = file.name
        threading.Thread(target=_follow, args=(control,), daemon=True).start()
        from launcher.cli import main as launch  # noqa: PLC0415 -- brings much

        return launch(order["argv"])


def _facts() -> dict[str, object]:
    # What ssh has reached this host by is where others will reach it, too.
    parts = os.environ.get("SSH_CONNECTION", "").split()
    address = parts[2] if len(parts) == 4 else "127.0.0.1"
    return {"address": address, "port": free_port("")}


def _follow(control: BinaryIO) -> None:
    """Send this process the signals that arrive; the end of them is one to stop."""
    for line in control:
        os.kill(os.getpid(), int(line))
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
