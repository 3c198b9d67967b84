"""Calls between workers on two hosts: only the network that a listener was told of is used."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.launcher.distributed import Hosts, needs_hosts
from tests.transport.links import identity

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60), needs_hosts]

SIZE = 1 << 19
"""Bytes of each call's argument and result; more would go through the memory that they share."""

WORKER = """
import asyncio
import asyncrpc as rpc

def listening():
    for line in subprocess.run(["ss", "-ltnH"], stdout=-1, text=True).stdout.splitlines():
        yield line.split()[3].rpartition(":")[0]

async def main():
    number = os.environ["NUMBER"]
    files = [os.path.join(number, f"{kind}.pem") for kind in ("cert", "key", "ca")]
    tls = rpc.TlsOptions(*files) if os.path.exists(number) else None
    listen = os.environ.get("LISTEN")
    async with rpc.init_rpc(options=rpc.RpcOptions(tls=tls, listen=listen)) as agent:
        other = 1 - agent.info.id
        for _ in range(4):
            data = os.urandom(SIZE)
            assert await rpc.rpc_async(f"worker{other}", bytes, args=(data,)) == data
        await rpc.barrier()
        print(json.dumps(sorted(set(listening()))), flush=True)
        await rpc.barrier()

rpc.run(main())
"""

COUNT = """
table inet count {
chain out {
type filter hook output priority 0;
oifname "eth0" meta l4proto tcp counter
oifname "eth1" meta l4proto tcp counter
}
}
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Return two hosts on two networks, which count what leaves them through each."""
    with Hosts(tmp_path, "left", "right", networks=2) as made:
        for host in made.lab.hosts:
            subprocess.run(made.lab.command(host, "nft", COUNT), check=True, timeout=10)
        yield made


def bytes_sent(hosts: Hosts, host: str) -> list[int]:
    """Return how many bytes of TCP have left a host through either network."""
    command = hosts.lab.command(host, "nft", "list", "table", "inet", "count")
    listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    return [int(count) for count in re.findall(r"counter packets \d+ bytes (\d+)", listed.stdout)]


def run(hosts: Hosts, listen: str = "") -> list[list[str]]:
    """Run a worker on each host; return the addresses that are listened at on it."""
    script = f"import subprocess\nSIZE = {SIZE}\n{WORKER}"
    agents = [
        hosts.agent(
            host,
            "--nnodes=2",
            script=script,
            NUMBER=str(number),
            **({"LISTEN": listen.format(number + 1)} if listen else {}),
        )
        for number, host in enumerate(hosts.lab.hosts)
    ]
    ends = [agent.communicate(timeout=40) for agent in agents]

    assert [
        (agent.returncode, stderr) for agent, (_, stderr) in zip(agents, ends, strict=True)
    ] == [(0, "")] * 2
    return [json.loads(stdout) for stdout, _ in ends]


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_calls_go_where_the_store_is(hosts: Hosts, tmp_path: Path, is_encrypted: bool) -> None:
    """Unless told otherwise, workers listen on the one address that reaches it."""
    if is_encrypted:
        authority = trustme.CA()
        for number in (0, 1):
            identity(tmp_path / str(number), authority, f"10.70.0.{number + 1}")
    addresses = run(hosts)
    sent = [bytes_sent(hosts, host) for host in hosts.lab.hosts]

    assert addresses == [["10.70.0.1"], ["10.70.0.2"]]
    assert [there for _, there in sent] == [0, 0]
    assert min(here for here, _ in sent) > 4 * SIZE


def test_calls_go_where_the_listener_was_told(hosts: Hosts) -> None:
    """The store is still met where it is; calls take the other network."""
    addresses = run(hosts, "tcp://10.71.0.{}:0")
    sent = [bytes_sent(hosts, host) for host in hosts.lab.hosts]

    assert addresses == [["10.70.0.1", "10.71.0.1"], ["10.71.0.2"]]
    assert max(here for here, _ in sent) < SIZE / 4
    assert min(there for _, there in sent) > 4 * SIZE
