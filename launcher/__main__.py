"""``python -m launcher``: see `launcher.cli`."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    _end_on_signals()
    from launcher.cli import main as run  # noqa: PLC0415 -- a signal may come meanwhile

    return run()


def _end_on_signals() -> None:
    """End with the right status and no traceback until the event loop handles signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            # Nothing has to be put in order: no worker runs, and the guardian follows us.
            signal.signal(number, lambda received, _: os._exit(128 + received))


if __name__ == "__main__":
    sys.exit(main())
