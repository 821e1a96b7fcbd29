"""The application is served here: a socket, one worker or several, and a graceful end.

It refuses to know what the application does. A first SIGTERM or SIGINT lets requests under way come
to their end, for as long as the settings say.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from speceyes.errors import ConfigError, SpecEyesError
from speceyes.gateway.app import GatewayApp
from speceyes.gateway.guard.browsers import is_loopback
from speceyes.gateway.guard.slow_clients import patient_protocol
from speceyes.gateway.settings import GatewaySettings, TlsSettings

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 2048
_HUNG_S: Final = 60  # a worker that says nothing for so long is replaced; models take time to load
_FORM: Final = "time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
_TIME_FORM: Final = "%Y-%m-%dT%H:%M:%S%z"


def serve(make_app: Callable[[], GatewayApp], settings: GatewaySettings) -> None:
    """Serve until told to end. With several workers `make_app` goes to other processes.

    Raises: ConfigError if the address cannot be had; the error that kept the gateway from starting.
    """
    configure_logging()
    check_tls(settings.tls)
    listener = _bind(settings.host, settings.port)
    signal.signal(signal.SIGTERM, _end_quietly)  # which uvicorn raises again after the drain
    with listener:
        _tell(settings, listener.getsockname()[1])
        if settings.workers == 1:
            app = make_app()
            try:
                uvicorn.Server(_config(lambda: app, settings)).run(sockets=[listener])
            except SystemExit:
                if app.failure is not None:
                    raise app.failure from None
                raise
        else:
            workers = Multiprocess(_config(make_app, settings), sockets=[listener])
            workers.run()
            if any(worker.exitcode == STARTUP_FAILURE for worker in workers.processes):
                raise SpecEyesError("the workers cannot start; the lines above say why")


def check_tls(tls: TlsSettings) -> None:
    """See that certificate and key can be served with. Raises: ConfigError naming the field."""
    if tls.certificate is None or tls.key is None:
        return
    for name, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            told = f"{path} cannot be read: {error.strerror or error}"
            raise ConfigError(f"gateway.tls.{name}", told) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # never asks for one
    except (ssl.SSLError, ValueError) as error:
        told = (
            f"{tls.key} is not the key of {tls.certificate}, has a password, or one of both is no "
            f"PEM file: {getattr(error, 'reason', None) or error}"
        )
        raise ConfigError("gateway.tls.key", told) from error


def configure_logging() -> None:
    """Log to the standard error, a line of key=value each; never a prompt, a picture or a key."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORM, _TIME_FORM))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("speceyes").setLevel(logging.INFO)


def _config(make_app: Callable[[], GatewayApp], settings: GatewaySettings) -> uvicorn.Config:
    limits = settings.limits
    return uvicorn.Config(
        make_app,
        factory=True,
        workers=settings.workers,
        http=patient_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=settings.tls.certificate,
        ssl_keyfile=settings.tls.key,
        backlog=_BACKLOG,
        timeout_worker_healthcheck=_HUNG_S,
        timeout_keep_alive=math.ceil(limits.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(limits.drain_s),
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise ConfigError(
            "gateway.port",
            f"cannot listen at {host}, port {port}: {error.strerror or error}; choose others",
        ) from error
    return listener


def _tell(settings: GatewaySettings, port: int) -> None:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.tls.certificate is None else "https"
    _LOG.info("message=%r url=%s://%s:%d/v1", "starting", scheme, shown, port)
    if not settings.keys and not is_loopback(settings.host):
        _LOG.warning(
            "message=%r host=%s",
            "ANYBODY WHO REACHES THIS MACHINE MAY USE THE ENGINES: it listens beyond loopback, "
            "and there are no keys; write [[gateway.keys]], or leave --host out",
            settings.host,
        )


def _end_quietly(*_: object) -> None:
    """All is done: end with success."""
