"""What grows in bench_growth: one module per subject, each with `measure(size)`.

`measure` runs in a process of its own per size, and returns the seconds that one round took and the
bytes of memory that were held at the fullest beyond what the process had before.
"""
