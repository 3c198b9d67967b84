"""``launcher k8s render``: the manifest of a launch in Kubernetes. Asks no cluster anything."""

from launcher.kubernetes.command import run_k8s
from launcher.kubernetes.manifest import Deployment, render

__all__ = ("Deployment", "render", "run_k8s")
