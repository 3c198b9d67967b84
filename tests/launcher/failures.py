"""Ways to fail for one worker of two: what it does, and what must be told of it.

Data of `test_failures`. The body runs in the worker of rank 1, after a few imports; the other one
does what most do: it waits for the one that fails.
"""

from __future__ import annotations

__all__ = ("CASES",)

CASES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "import error": (
        "import no_such_module",
        1,
        ("ModuleNotFoundError: No module named 'no_such_module'",),
    ),
    "import error in a module": (
        "from os import no_such_name",
        1,
        ("ImportError: cannot import name 'no_such_name' from 'os'",),
    ),
    "syntax error": ("exec('def f(:')", 1, ("SyntaxError: invalid syntax",)),
    "indentation": ("exec('if 1:\\npass')", 1, ("IndentationError: expected an indented block",)),
    "exception": ("raise RuntimeError('boom')", 1, ("RuntimeError: boom",)),
    "exception with a cause": (
        """
try:
    {}["key"]
except KeyError as error:
    raise ValueError("no configuration") from error
""",
        1,
        ("KeyError: 'key'", "ValueError: no configuration"),
    ),
    "exception group": (
        "raise ExceptionGroup('several', [OSError('first'), KeyError('second')])",
        1,
        ("ExceptionGroup: several", "OSError: first", "KeyError: 'second'"),
    ),
    "assertion": ("assert 1 == 2, 'sums are off'", 1, ("AssertionError: sums are off",)),
    "recursion": (
        "def f(): f()\nf()",
        1,
        ("RecursionError: maximum recursion depth exceeded",),
    ),
    "missing file": (
        "open('/no/such/file')",
        1,
        ("FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'",),
    ),
    "sys.exit": ("sys.exit(7)", 7, ("exitcode  : 7",)),
    "sys.exit with 255": ("sys.exit(-1)", 255, ("exitcode  : 255",)),
    "sys.exit with a text": ("sys.exit('bad --lr')", 1, ("bad --lr",)),
    "os._exit": ("os._exit(3)", 3, ("exitcode  : 3",)),
    "abort": ("os.abort()", 134, ("SIGABRT: it aborted itself",)),
    "segfault": (
        "import ctypes; ctypes.string_at(0)",
        139,
        ("SIGSEGV: invalid memory access",),
    ),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", 137, ("SIGKILL: killed from outside",)),
    "SIGTERM by somebody": (
        "os.kill(os.getpid(), signal.SIGTERM)",
        143,
        ("SIGTERM: asked to stop, but not by the launcher",),
    ),
    "SIGINT by somebody": (
        "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
        130,
        ("SIGINT: interrupted, but not by the launcher",),
    ),
    "SIGBUS": ("os.kill(os.getpid(), signal.SIGBUS)", 135, ("SIGBUS: bad memory access",)),
    "SIGFPE": ("os.kill(os.getpid(), signal.SIGFPE)", 136, ("SIGFPE: arithmetic error",)),
    "a signal without a name": ("os.kill(os.getpid(), 40)", 168, ("signal 40",)),
    "out of memory under a limit": (
        """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
bytearray(1 << 32)
""",
        1,
        ("MemoryError",),
    ),
    "out of descriptors": (
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
files = [open(os.devnull) for _ in range(30)]
""",
        1,
        ("OSError: [Errno 24] Too many open files",),
    ),
    "out of processor time": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
        152,
        ("SIGXCPU: ran out of its limit of processor time",),
    ),
    "error in a thread that ends the process": (
        """
import threading
def die():
    try:
        raise RuntimeError("in a thread")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
        os._exit(4)
threading.Thread(target=die).start()
time.sleep(100)
""",
        4,
        ("RuntimeError: in a thread", "exitcode  : 4"),
    ),
    "error in an event loop": (
        """
import asyncio
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(100))
        group.create_task(fail())
async def fail():
    raise RuntimeError("in a task")
asyncio.run(main())
""",
        1,
        ("RuntimeError: in a task",),
    ),
    "a much longer stderr": (
        "print('noise\\n' * 100_000, file=sys.stderr); raise RuntimeError('after the noise')",
        1,
        ("RuntimeError: after the noise",),
    ),
    "no end of the last line": (
        "sys.stderr.write('last words'); sys.stderr.flush(); os._exit(9)",
        9,
        ("last words",),
    ),
    "recorded": (
        """
from launcher.process import record
@record
def main():
    raise RuntimeError("in the error file")
main()
""",
        1,
        ("RuntimeError: in the error file",),
    ),
    "an error file of another program": (
        """
with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
    json.dump({"message": "the program's own words"}, file)
sys.exit(5)
""",
        5,
        ("the program's own words",),
    ),
    "a broken error file": (
        """
open(os.environ["TORCHELASTIC_ERROR_FILE"], "w").write("{")
raise RuntimeError("still told")
""",
        1,
        ("RuntimeError: still told",),
    ),
    "a result that cannot be pickled": (
        """
import threading
from launcher import LaunchConfig, elastic_launch
elastic_launch(LaunchConfig(1, 1, 1, max_restarts=0, start_method="fork"), threading.Lock)()
""",
        1,
        ("cannot be pickled: cannot pickle '_thread.lock' object",),
    ),
    "a launcher in a worker": (
        """
import subprocess
sys.exit(subprocess.run([
    sys.executable, "-m", "launcher", "--no-python", "sh", "-c", "echo deep >&2; exit 6"
]).returncode)
""",
        6,
        ("deep", "exitcode  : 6"),
    ),
    "a block that takes too long": (
        """
from launcher.timer import expires
with expires(after=0.2, scope="step"):
    time.sleep(100)
""",
        137,
        ("'step' took longer than 0.2 s",),
    ),
    "native code in a thread": (
        """
import ctypes, threading
libc = ctypes.CDLL(None)
def die():
    libc.write(2, b"check failed: n > 0\\n", 20)
    libc.abort()
threading.Thread(target=die).start()
time.sleep(100)
""",
        134,
        ("check failed: n > 0", "SIGABRT: it aborted itself"),
    ),
    "memory freed twice": (
        """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
memory = ctypes.c_void_p(libc.malloc(64))
libc.free(memory), libc.free(memory)
""",
        134,
        ("free(): double free detected", "SIGABRT: it aborted itself"),
    ),
    "segfault with a stack": (
        "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)",
        139,
        ("Fatal Python error: Segmentation fault", "worker.py", "SIGSEGV: invalid memory access"),
    ),
    "an error, then one at exit": (
        """
import atexit
def tidy():
    raise OSError("while tidying up")
atexit.register(tidy)
raise RuntimeError("the cause")
""",
        1,
        ("RuntimeError: the cause", "Exception ignored in atexit callback"),
    ),
    "an error, then one of the hook for errors": (
        """
def hook(*_):
    raise TypeError("in the hook")
sys.excepthook = hook
raise RuntimeError("the cause")
""",
        1,
        ("RuntimeError: the cause", "Error in sys.excepthook"),
    ),
    "a child of the worker": (
        """
import multiprocessing
def load():
    raise RuntimeError("in the loader")
child = multiprocessing.get_context("fork").Process(target=load)
child.start()
child.join()
sys.exit(child.exitcode and f"the loader ended with {child.exitcode}")
""",
        1,
        ("RuntimeError: in the loader", "the loader ended with 1"),
    ),
    "a pool that loses a process": (
        """
import concurrent.futures, multiprocessing
fork = multiprocessing.get_context("fork")
with concurrent.futures.ProcessPoolExecutor(1, fork) as pool:
    pool.submit(os._exit, 9).result()
""",
        1,
        ("BrokenProcessPool: A process in the process pool was terminated abruptly",),
    ),
    "a command that fails": (
        """
import subprocess
subprocess.run(["sh", "-c", "echo no such dataset >&2; exit 4"], check=True)
""",
        1,
        ("no such dataset", "CalledProcessError: Command", "exit status 4."),
    ),
    "a thread, and the main thread gives up": (
        """
import threading
def load():
    raise RuntimeError("in the loader")
thread = threading.Thread(target=load)
thread.start()
thread.join()
sys.exit(3)
""",
        3,
        ("RuntimeError: in the loader", "exitcode  : 3"),
    ),
    "a message of a million characters": (
        "raise RuntimeError('x' * 1_000_000)",
        1,
        ("RuntimeError: xxx",),
    ),
    "a message of a thousand lines": (
        "raise RuntimeError('1000 things are wrong:\\n' + 'detail\\n' * 1000)",
        1,
        ("RuntimeError: 1000 things are wrong:", "more lines", "detail"),
    ),
    "a thousand lines, recorded": (
        """
from launcher.process import record
@record
def main():
    raise RuntimeError("1000 things are wrong:" + "\\ndetail" * 1000)
main()
""",
        1,
        ("it exited with status 1: RuntimeError: 1000 things are wrong:", "detail"),
    ),
    "bytes that are no text": (
        "sys.stderr.buffer.write(b'caf\\xe9 \\xff\\x00 broke\\n'); sys.stderr.flush(); sys.exit(3)",
        3,
        ("caf\ufffd", "broke"),
    ),
    "a pipe that nobody reads": (
        """
import subprocess
child = subprocess.Popen(["true"], stdin=subprocess.PIPE)
child.wait()
child.stdin.write(b"x")
child.stdin.flush()
""",
        1,
        ("BrokenPipeError: [Errno 32] Broken pipe",),
    ),
    "a full disk": (
        "file = open('/dev/full', 'w'); file.write('x'); file.flush()",
        1,
        ("OSError: [Errno 28] No space left on device",),
    ),
    "an interrupt from inside": (
        "raise KeyboardInterrupt",
        130,
        ("KeyboardInterrupt", "SIGINT: interrupted, but not by the launcher"),
    ),
    "the end of its input": ("input()", 1, ("EOFError: EOF when reading a line",)),
    "a process that is left behind": (
        """
import subprocess
subprocess.Popen(["sleep", "100"], start_new_session=True)
raise RuntimeError("the cause")
""",
        1,
        ("RuntimeError: the cause",),
    ),
    "a result that cannot be unpickled": (
        """
from launcher import LaunchConfig, elastic_launch
class Odd:
    def __reduce__(self):
        return int, ("no number",)
elastic_launch(LaunchConfig(1, 1, 1, max_restarts=0, start_method="fork"), Odd)()
""",
        1,
        ("cannot be unpickled here: ValueError: invalid literal for int()",),
    ),
}
"""By name: what the worker does, the launcher's exit status, and what its last lines say."""
