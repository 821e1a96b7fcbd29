"""What all tests share: no network, reproducible examples, and a clock of their own."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import hypothesis
import pytest
import trio.testing

if TYPE_CHECKING:
    from tests.e2e.vllm_server import Pair

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost"}


class NetworkTouchedError(RuntimeError):
    """A test reached beyond this machine. Not an OSError, so that no retry swallows it."""


def is_local(host: object) -> bool:
    """Say whether a host (a name, a literal address, or None for the wildcard) is this machine."""
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def guard_network(event: str, args: tuple[Any, ...]) -> None:
    """Stop every connection, datagram and look-up that would leave this machine."""
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = args[1]  # a path for AF_UNIX, a tuple for the internet, None when connected
        outside = isinstance(address, tuple) and not is_local(address[0])
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        address = args[0]
        outside = not is_local(address)
    else:
        return
    if outside:
        raise NetworkTouchedError(f"{event}: {address!r}; tests stay on this machine")


sys.addaudithook(guard_network)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run async tests on asyncio and on trio, or once, on virtual time, if so marked."""
    if "anyio_backend" not in metafunc.fixturenames or hasattr(metafunc.module, "anyio_backend"):
        return
    is_virtual = metafunc.definition.get_closest_marker("virtual_time") is not None
    backends = ["virtual"] if is_virtual else ["asyncio", "trio"]
    metafunc.parametrize("anyio_backend", backends, indirect=True)


@pytest.fixture(scope="session")
def vllm_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Serve the built-in pair with a real vLLM, once for all tests that ask for it."""
    if sys.platform != "linux":
        pytest.skip("vLLM's builds for CPUs are for Linux")
    from tests.e2e.vllm_server import serve_pair

    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():  # a long silence looks like a hang
            print(f"\n{line}", end="", file=sys.stderr, flush=True)

    def leave() -> NoReturn:  # a SystemExit would be one more failed test
        pytest.exit("ended by SIGTERM", returncode=128 + signal.SIGTERM)

    with serve_pair(tmp_path_factory.mktemp("vllm"), tell, leave=leave) as pair:
        yield pair


@pytest.fixture
def vllm(request: pytest.FixtureRequest, vllm_pair: Pair) -> Iterator[Pair]:
    """Give the pair with both servers up, whatever the test before did to them."""
    for server in vllm_pair.servers:
        server.ensure()
    failed_before = request.session.testsfailed
    yield vllm_pair
    if request.session.testsfailed > failed_before:
        for server in vllm_pair.servers:
            print("\n".join([f"--- {server.log}", *server.tail()]))


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Choose the event loop.

    On virtual time the clock leaps to the next deadline whenever every task waits. It does not
    know of threads: a test that runs work in one keeps real time.
    """
    if request.param == "virtual":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return str(request.param)
