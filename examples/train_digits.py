"""Data-parallel training with torch: a script for torchrun, which runs as it is.

Run it on four workers of this machine::

    python -m launcher --standalone --nproc-per-node 4 examples/train_digits.py

or on two nodes or one, as they come and go::

    python -m launcher --nnodes 1:2 --rdzv-endpoint node0:29400 --max-restarts 3 --torch-store \
        examples/train_digits.py --epochs 50 --checkpoint /shared/digits.pt

Each worker trains the same small network on its share of the images, and torch averages the
gradients of all of them. The images are digits drawn here, shifted and blurred by noise. After each
epoch rank 0 keeps what the training has come to in a file; whenever the workers are started again,
after a failure or because a node has come, or when the job is run again, they go on from there.

Needs torch: pip install torch
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

SIZE = 12
"""Pixels of an image on each side."""

FONT = """
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""
"""The ten digits."""


def draw(count: int, seed: int) -> TensorDataset:
    """Return images of digits, each somewhere in its image and under noise, and which they show."""
    rows = [line.split() for line in FONT.split("\n") if line]
    font = torch.tensor([[[dot == "#" for dot in row[n]] for row in rows] for n in range(10)])
    chance = torch.Generator().manual_seed(seed)
    digits = torch.randint(10, (count,), generator=chance)
    images = 0.4 * torch.randn(count, 1, SIZE, SIZE, generator=chance)
    height, width = font.shape[1:]
    tops = torch.randint(SIZE - height + 1, (count,), generator=chance).tolist()
    lefts = torch.randint(SIZE - width + 1, (count,), generator=chance).tolist()
    for image, digit, top, left in zip(images, digits, tops, lefts, strict=True):
        image[0, top : top + height, left : left + width] += font[digit]
    return TensorDataset(images, digits)


def make_network() -> Any:
    """Return the network: what is found anywhere in an image says which digit it is."""
    return nn.Sequential(
        nn.Conv2d(1, 32, (7, 5)),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(network: Any, optimizer: Any, loader: Any) -> float:
    """Go once through this worker's share of the images; return the mean loss of all workers."""
    total = torch.zeros(2)
    for images, digits in loader:
        loss = nn.functional.cross_entropy(network(images), digits)
        optimizer.zero_grad()
        loss.backward()  # the gradients are those of all workers after this
        optimizer.step()
        total += torch.tensor([loss.item(), 1.0])
    dist.all_reduce(total)
    return float(total[0] / total[1])


def accuracy(network: Any, images: TensorDataset) -> float:
    """Return the share of images that the network takes for what they show."""
    with torch.no_grad():
        found = network(images.tensors[0]).argmax(dim=1)
    return float((found == images.tensors[1]).float().mean())


def load(path: str, network: Any, optimizer: Any) -> int:
    """Go on from the file, if there is one; return the epoch to do next."""
    if not path or not os.path.exists(path):
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"]) + 1


def save(path: str, network: Any, optimizer: Any, epoch: int) -> None:
    """Keep an epoch in the file: a worker may be killed at any time, so never half of it."""
    state = {
        "epoch": epoch,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, f"{path}.new")
    os.replace(f"{path}.new", path)


def learn(arguments: argparse.Namespace) -> None:
    """Train, and say after each epoch how far it is."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # after failures
    known, unknown = draw(arguments.images, seed=1), draw(1000, seed=2)
    torch.manual_seed(0)
    network = DistributedDataParallel(make_network())  # with the weights of rank 0
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    sampler = DistributedSampler(known)
    loader = DataLoader(known, arguments.batch, sampler=sampler)

    for epoch in range(load(arguments.checkpoint, network, optimizer), arguments.epochs):
        sampler.set_epoch(epoch)  # other shares in each
        loss = train(network, optimizer, loader)
        if rank == 0:
            if arguments.checkpoint:
                save(arguments.checkpoint, network, optimizer, epoch)
            share = accuracy(network, unknown)
            print(
                f"epoch: {epoch}, loss: {loss:.4f}, accuracy: {share:.3f}, "
                f"workers: {world_size}, restarts: {restarts}",
                flush=True,
            )


def main() -> None:
    """Learn with the other workers."""
    parser = argparse.ArgumentParser(description="Train a network to read digits.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32, help="images per worker and step")
    parser.add_argument("--checkpoint", default="", help="a file to keep the training in")
    arguments = parser.parse_args()

    dist.init_process_group("gloo")  # rank and address are in the environment
    learn(arguments)
    dist.destroy_process_group()  # ends its threads, now that no network holds it any more


if __name__ == "__main__":
    main()
