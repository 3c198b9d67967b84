"""What workers of the tests with torch run; imported by them, not by the tests' process."""

from __future__ import annotations

import torch
import torch.distributed as dist


def sum_of_ranks() -> int:
    """Add up the ranks of all workers, over the group that torch forms from its environment."""
    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank()])
    dist.all_reduce(total)
    dist.barrier()
    dist.destroy_process_group()
    return int(total.item())
