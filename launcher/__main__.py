"""``python -m launcher``: see `launcher.cli`."""

import gc
import os
import signal
import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    if os.getpid() == 1:
        from launcher.init import become_second  # noqa: PLC0415 -- only in containers

        become_second()
    handled = _end_on_signals()
    gc.disable()  # imports leave no garbage to look for
    from launcher.cli import main as run  # noqa: PLC0415 -- a signal may come meanwhile

    gc.freeze()  # modules stay
    gc.enable()
    try:
        return run()
    finally:
        gc.freeze()  # else Python's end searches all that is about to go, a tenth of a short run
        for number in handled:  # too late: the status is settled, and only Python has to end
            signal.signal(number, signal.SIG_IGN)


def _end_on_signals() -> list[signal.Signals]:
    """End with the right status and no traceback until the event loop handles signals.

    Returns:
        The signals that are handled now.
    """
    handled = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    ]
    for number in handled:
        # Nothing has to be put in order: no worker runs, and the guardian follows us.
        signal.signal(number, lambda received, _: os._exit(128 + received))
    return handled


if __name__ == "__main__":
    sys.exit(main())
