"""Where a gateway listens: on an address, on a Unix socket, or on sockets that others have opened."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentic_trio.errors import ConfigError
from agentic_trio.server.systemd import inherited
from agentic_trio.web.callers import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.config import Config

UDS_UMASK = 0o117
"""A Unix socket is for its owner and its group, such as a proxy's."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where to listen.

    Attributes:
        binds: in hypercorn's notation.
        uds: the path of a Unix socket that is made.
        loopback: whether only this machine reaches it by an address, so that names of hosts are checked.
        reachable: an address that others reach; None if there is none.
    """

    binds: list[str]
    uds: str | None = None
    loopback: bool = False
    reachable: str | None = None

    @classmethod
    def of(cls, config: Config) -> Binding:
        """What a configuration says, or the service manager if that says neither ``uds`` nor ``fd``."""
        if config.uds is not None:
            return cls([f"unix:{config.uds}"], uds=config.uds)
        descriptors = [config.fd] if config.fd else inherited(os.environ)
        if descriptors:
            return cls._passed(descriptors)
        host = f"[{config.host}]" if ":" in config.host else config.host
        loopback = is_loopback(config.host)
        return cls([f"{host}:{config.port}"], loopback=loopback, reachable=None if loopback else config.host)

    @classmethod
    def _passed(cls, descriptors: list[int]) -> Binding:
        hosts = [_host_of(each) for each in descriptors]
        reachable = [host for host in hosts if host is not None and not is_loopback(host)]
        return cls(
            [f"fd://{each}" for each in descriptors],
            loopback=not reachable and any(host is not None for host in hosts),
            reachable=reachable[0] if reachable else None,
        )


def _host_of(descriptor: int) -> str | None:
    """The address that an open socket is bound to; None for a Unix socket. Raises ConfigError."""
    try:
        sock = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise ConfigError(f"fd {descriptor} is not an open socket: {error.strerror}") from error
    with sock:
        if sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"fd {descriptor} is not a stream socket")
        return None if sock.family == socket.AF_UNIX else str(sock.getsockname()[0])


@contextmanager
def unix_socket(path: str | None) -> Iterator[None]:
    """See to it that a Unix socket can be made at ``path``, and remove it when the block is over.

    Raises:
        OSError: another server listens there, or something else is there.
    """
    if path is None:
        yield
        return
    _check_free(path)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)


def _check_free(path: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(17, "something that isn't a socket is there", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                return
        raise OSError(98, "another server listens there", path)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """What connections are secured with; None without a ``certfile``. Raises ConfigError."""
    if config.certfile is None:
        if config.keyfile is not None:
            raise ConfigError("keyfile is given without a certfile")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, config)
    return context


def load_certificate(context: ssl.SSLContext, config: Config) -> None:
    """Give a context the configured certificate, which later connections are shown.

    Raises:
        ConfigError: it can't be used. The context is as it was.
    """
    if config.certfile is None:
        raise ConfigError("certfile is gone: TLS can't be switched off without a restart")

    def password() -> str:
        # Otherwise OpenSSL would ask the terminal, and wait.
        if config.keyfile_password is None:
            raise ConfigError("keyfile is encrypted, and there is no keyfile_password")
        return config.keyfile_password

    try:
        context.load_cert_chain(config.certfile, config.keyfile, password)
    except ssl.SSLError as error:
        raise ConfigError(f"certfile and keyfile can't be used: {error.reason or error}") from error
    except OSError as error:
        raise ConfigError(f"certfile or keyfile can't be read: {error.strerror or error}") from error
