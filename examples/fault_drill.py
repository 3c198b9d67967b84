"""A drill: does a program keep its books right when its messages are lost, doubled and late?

Run it on three workers of this machine::

    python -m launcher --standalone --nproc-per-node 3 examples/fault_drill.py --seed 7

Worker 0 keeps accounts. The others pay into them over a network that a `FaultPlan` makes bad:
requests and replies get lost, come twice, wait, change places, and now and then a link breaks. They
call with a `RetryPolicy`, so each payment is sent until it is answered, and runs once however often
that is. In the end the books must show what the payers say they have paid. The same seed makes the
same decisions for the n-th message of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter

import asyncrpc as rpc

balance: Counter[str] = Counter()
"""What each payer has paid, on worker 0."""


async def pay(amount: int) -> int:
    """Book a payment of the caller; the others call this. Return the caller's balance."""
    name = rpc.caller().name
    balance[name] += amount
    return balance[name]


def bad_network(seed: int, rate: float) -> rpc.FaultPlan:
    """Return a plan in which about ``rate`` of the messages suffer something."""
    each = rate / 4
    rules = [rpc.Fault("disconnect", message="PYTHON_CALL", probability=each / 10)]
    for message in ("PYTHON_CALL", "PYTHON_RET"):
        rules += [
            rpc.Fault("drop", message=message, probability=each),
            rpc.Fault("duplicate", message=message, probability=each),
            rpc.Fault("reorder", message=message, probability=each, delay=0.02),
            rpc.Fault("delay", message=message, probability=each, delay=0.05),
        ]
    return rpc.FaultPlan(rules, seed=seed)


async def make_payments(count: int, seed: int) -> int:
    """Pay ``count`` times, sixteen at once; return the sum."""
    policy = rpc.RetryPolicy(
        max_retries=30, initial=0.01, max_delay=0.2, jitter="full", per_attempt_timeout=0.25
    )
    chance = random.Random(f"{seed} {rpc.get_worker_info().name}")  # noqa: S311 -- no secret
    at_once = asyncio.Semaphore(16)

    async def one(amount: int) -> int:
        async with at_once:
            await rpc.rpc_async("worker0", pay, args=(amount,), retry=policy)
        return amount

    amounts = [chance.randint(1, 100) for _ in range(count)]
    return sum(await asyncio.gather(*[one(amount) for amount in amounts]))


async def main(arguments: argparse.Namespace) -> int:
    """Run this worker's part; return the exit status."""
    plan = bad_network(arguments.seed, arguments.rate)
    async with rpc.init_rpc(options=rpc.RpcOptions(faults=plan)) as agent:
        paid = await make_payments(arguments.payments, arguments.seed) if agent.info.id else 0
        reports = await agent.all_gather((paid, Counter(event.kind for event in plan.events)))
        if agent.info.id:
            return 0
        faults: Counter[str] = Counter()
        for _, found in reports.values():
            faults += found
        said = {name: amount for name, (amount, _) in reports.items() if amount}
        print(*[f"{kind}: {number}" for kind, number in sorted(faults.items())], sep=", ")
        for name, amount in sorted(said.items()):
            print(f"{name} paid {amount}, the books say {balance[name]}")
        return 0 if said == dict(balance) else 1


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Pay over a bad network.")
    parser.add_argument("--payments", type=int, default=200, help="of each payer (default: 200)")
    parser.add_argument("--rate", type=float, default=0.4, help="of the messages (default: 0.4)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(rpc.run(main(parse())))
