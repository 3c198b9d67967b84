"""The launches of this user on this machine: a socket for each, and how to ask them."""

from launcher.control.client import Launch, find_launches, stop_launch
from launcher.control.server import serve_control

__all__ = ("Launch", "find_launches", "serve_control", "stop_launch")
