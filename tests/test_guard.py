"""The guards of conftest.py themselves: each must bite."""

from __future__ import annotations

import socket
import time

import anyio
import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_connections_outward_are_stopped(host: str):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_STREAM) as outward,
        pytest.raises(RuntimeError, match="stay on this machine"),
    ):
        outward.connect((host, 9))


def test_datagrams_outward_are_stopped():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward,
        pytest.raises(RuntimeError, match="stay on this machine"),
    ):
        outward.sendto(b"", ("192.0.2.1", 9))


def test_look_ups_are_stopped():
    with pytest.raises(RuntimeError, match="stay on this machine"):
        socket.getaddrinfo("speceyes.example", 443)


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()[:2], timeout=5).close()


@pytest.mark.anyio
async def test_async_tests_run_on_both_loops(anyio_backend_name: str):
    from sniffio import current_async_library

    assert current_async_library() == anyio_backend_name


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_virtual_time_costs_no_time():
    start_s, virtual_s = time.monotonic(), anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - virtual_s >= 3600
    assert time.monotonic() - start_s < 60
