"""What a scheduler tells a launcher by variables: Slurm, MPI and Kubernetes, one module for each.

Pure: variables in, a value out. A module is imported when a variable of its scheduler is there;
without a scheduler, a handful of look-ups is all. Called by `settings`, where explicit options win.
"""

from launcher.environment.base import Environment
from launcher.environment.registry import Detector, detect

__all__ = ("Detector", "Environment", "detect")
