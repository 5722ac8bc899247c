"""The gateway: it owns the store, the model server's client and the turns."""

from __future__ import annotations

import logging
import math
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from agentic_trio.auth.authenticator import open_authenticator
from agentic_trio.config import SETTINGS
from agentic_trio.context import RequestContext, bearer
from agentic_trio.errors import ConfigError, GatewayError, ServiceUnavailable
from agentic_trio.gateway.admission import Admission
from agentic_trio.gateway.compacting import Compacting
from agentic_trio.gateway.control import open_control
from agentic_trio.gateway.conversations import Conversations
from agentic_trio.gateway.counting import Counting
from agentic_trio.gateway.embedding import Embedding
from agentic_trio.gateway.fair_queue import FairQueue
from agentic_trio.gateway.idempotency import KEY_WAIT, key_in_use
from agentic_trio.gateway.keys import open_sealing
from agentic_trio.gateway.locks import Locks
from agentic_trio.gateway.maintenance import Maintenance
from agentic_trio.gateway.registry import Registry
from agentic_trio.gateway.responses import Responses
from agentic_trio.gateway.services import Services
from agentic_trio.gateway.store_errors import StateErrors
from agentic_trio.gateway.unrecorded import Unrecorded
from agentic_trio.gateway.usage import default_limits, keep_usage, open_quotas, write_usage
from agentic_trio.minting import mint_id
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store.contract import SWEEP_LIMIT, StoreError
from agentic_trio.store.sqlite import open_sqlite_store
from agentic_trio.telemetry.edges import event
from agentic_trio.telemetry.observer import Observer
from agentic_trio.upstream.servers import open_upstream
from agentic_trio.wire.responses import crashed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from agentic_trio.auth.authenticator import Authenticate
    from agentic_trio.config import Config
    from agentic_trio.store.sqlite import SqliteStore
    from agentic_trio.tools.mcp_servers import ToolServers

JsonObject = dict[str, Any]

logger = logging.getLogger(__name__)

PRUNE_INTERVAL = 3600.0

DAY = 86_400.0

PROBE_AGE = 0.1
"""Seconds for which what a probe has found is taken to be so."""


class Gateway(Embedding):
    """Stateful responses and conversations over a stateless model server.

    Made by :func:`open_gateway`. Its methods for programs are those of :class:`Embedding`.

    Attributes:
        config: what it was opened with.
        upstream: the model server, or several.
        admission: the bounds on requests and on the memory that they take.
        hosted: the types of tools that are run here.
        quotas: what owners and keys may use; None where that is without bounds.
        authenticator: finds out who a request comes from; None where nobody has to say.
        turns: those that run, and new ones.
        seals: whether reasoning can be sealed for clients.
        keys: who is at work on which idempotency key.
        responses: stored responses, as JSON text.
        counting: counts the input tokens of requests.
        compacting: sums contexts up for clients.
        conversations: conversations and their items, as JSON text.
        observer: what operators see.
        reloads: called with a new configuration when a running gateway is to take what it can of it.
        closed: whether the block is over; the methods for programs then raise RuntimeError.
    """

    def __init__(self, services: Services, service: trio.Nursery) -> None:
        self.config = services.config
        self.upstream = services.upstream
        self.admission = services.admission
        self.hosted = services.hosted
        self.authenticator = services.authenticator
        self.quotas = services.quotas
        self.turns = Registry(services, service)
        self.seals = services.sealing is not None
        self.keys = Locks(KEY_WAIT, key_in_use)
        self.responses = Responses(services, self.turns)
        self.counting = Counting(services)
        self.compacting = Compacting(services)
        self.conversations = Conversations(
            services.store,
            services.unrecorded,
            services.locks,
            services.mint,
            services.now,
            strict=services.config.strict_parameters,
            commit_timeout=services.config.commit_timeout,
        )
        self.reloads: list[Callable[[Config], None]] = []
        if self.quotas is not None:
            self.quotas.freed = services.background.wake
            self.reloads.append(self._set_limits)
        self.closed = False
        self.observer = services.observer
        self._services = services
        self._probing = trio.Lock()
        self._probed_until = -math.inf
        self._trouble: str | None = None

    def own_context(self) -> RequestContext:
        """The context of the program that embeds the gateway."""
        return RequestContext(authorization=bearer(self.config.openai_api_key))

    def _set_limits(self, config: Config) -> None:
        if self.quotas is not None:
            self.quotas.defaults = default_limits(config)

    def reload(self, config: Config) -> None:
        """Take the settings of another configuration that a running gateway can change; log the others."""
        for reload in self.reloads:
            try:
                reload(config)
            except ConfigError as error:
                logger.error("not reloaded: %s", error)
        changed = [
            name
            for name, each in SETTINGS.items()
            if not each.reloads and getattr(config, name) != getattr(self.config, name)
        ]
        if changed:
            logger.warning("these settings have changed, and need a restart: %s", ", ".join(changed))

    async def probe(self) -> None:
        """Ask the model server and the store whether they work.

        What was found stands for ``PROBE_AGE``, and one asks for all: anyone may want to know, and a write
        to the disk and two requests with our key are what it takes.

        Raises:
            GatewayError: one of them does not.
        """
        async with self._probing:
            if trio.current_time() >= self._probed_until:
                self._trouble = await self._trouble_now()
                self._probed_until = trio.current_time() + PROBE_AGE
        if self._trouble is not None:
            raise ServiceUnavailable(self._trouble)

    async def _trouble_now(self) -> str | None:
        try:
            with StateErrors():
                await self._services.store.probe()
            await self.upstream.probe(self.own_context())
        except GatewayError as error:
            return error.message
        return None


@asynccontextmanager
async def open_gateway(
    config: Config, *, observer: Observer | None = None, authenticate: Authenticate | None = None
) -> AsyncIterator[Gateway]:
    """A gateway for as long as the block lasts.

    Args:
        config: its configuration.
        observer: what operators see; without one, there is no log of its requests.
        authenticate: says who a request over HTTP comes from, by its headers; beside what ``config.auth``
            names, if that names anything.

    Raises:
        ConfigError: the database can't be used.
        RuntimeError: it is opened on another event loop than Trio's.

    Cancellation: turns are ended and recorded before the store closes.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("agentic_trio needs Trio: anyio.run(..., backend='trio')")
    observer = observer or Observer()
    async with (
        open_authenticator(config, time.time, authenticate) as authenticator,
        _open_store(config, observer) as store,
        open_upstream(config) as upstream,
        open_tools(config) as tools,
    ):
        try:
            _tell_recovered(await store.recover(crashed))
            sealing = await open_sealing(config, store)
        except StoreError as error:
            raise ConfigError(f"store {config.database_path!r}: {error}") from error
        services = Services(
            config=config,
            store=store,
            upstream=upstream,
            locks=Locks(config.conversation_wait),
            unrecorded=Unrecorded(store),
            admission=Admission(max_requests=config.max_concurrent_requests, max_bytes=config.max_held_bytes),
            background=FairQueue(config.max_background),
            quotas=await open_quotas(config, authenticator, time.time),
            mint=mint_id,
            now=time.time,
            observer=observer,
            tools=tools,
            authenticator=authenticator,
            sealing=sealing,
        )
        observer.show("queued_writes", "Writes that wait for the store", lambda: store.writer.waiting)
        async with open_gateway_over(services) as gateway:
            maintenance = Maintenance(
                config.database_path, store, turns=gateway.turns, unrecorded=services.unrecorded
            )
            async with open_control(config.database_path, maintenance.commands):
                yield gateway


def _tell_recovered(turns: int) -> None:
    if turns:
        logger.warning(
            "the gateway ended while %d turns were under way: they are failed now",
            turns,
            extra=event("recovered", turns=turns),
        )


@asynccontextmanager
async def open_tools(config: Config) -> AsyncIterator[ToolServers | None]:
    """The MCP servers of a configuration; None without any.

    Raises:
        ConfigError: the extra that they need is not installed, or something is configured for a server that
            isn't there.
    """
    config.check_tools()
    if not config.mcp_servers and not config.mcp_allow_hosts:
        yield None
        return
    try:
        # What it imports takes half a second, and is an extra.
        from agentic_trio.tools.mcp_servers import open_tool_servers
    except ImportError as error:
        raise ConfigError(
            f"mcp_servers and mcp_allow_hosts need the extra 'mcp', which is not installed ({error.name})"
        ) from error
    async with open_tool_servers(config) as tools:
        yield tools


@asynccontextmanager
async def open_gateway_over(services: Services) -> AsyncIterator[Gateway]:
    """A gateway of given parts, which stay open. Cancellation: as for ``open_gateway``."""
    async with open_inner_nursery() as service:
        gateway = Gateway(services, service)
        service.start_soon(services.unrecorded.run)
        if services.quotas is not None:
            service.start_soon(keep_usage, services)
        service.start_soon(prune_expired, services)
        service.start_soon(sweep_deleted, services, gateway.turns)
        service.start_soon(gateway.turns.wake_quiet)
        service.start_soon(services.observer.run)
        show_state(services, gateway.turns)
        try:
            yield gateway
        finally:
            gateway.closed = True
            await gateway.turns.close()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + services.config.commit_timeout):
                await services.unrecorded.flush()
                await write_usage(services)
            services.unrecorded.abandon()
            service.cancel_scope.cancel()


def show_state(services: Services, turns: Registry) -> None:
    """Let operators see how much is under way, and what waits."""
    show, admission, config = services.observer.show, services.admission, services.config
    services.unrecorded.on_lost = services.observer.lost
    slots, memory = config.max_concurrent_requests, config.max_held_bytes
    show("live_turns", "Turns that run or are queued", lambda: len(turns))
    show("queued_background_turns", "Background turns that wait", lambda: turns.queued)
    show("unrecorded_endings", "Endings that the store could not take yet", lambda: len(services.unrecorded))
    show("slots_in_use", "Requests at the model servers", lambda: slots - admission.slots)
    show("held_bytes", "Bytes of bodies, histories and answers", lambda: memory - admission.bytes_left)


def _open_store(config: Config, observer: Observer) -> AbstractAsyncContextManager[SqliteStore]:
    return open_sqlite_store(
        config.database_path, migration_backup=config.migration_backup, observe=observer.committed
    )


async def prune_expired(services: Services) -> None:
    """Forget, now and then, the streams that ended too long ago to be read again, and what is too old."""
    config = services.config
    while True:
        # The store logs what it can't do; it is tried again.
        with suppress(StoreError):
            await services.store.prune_events(int(services.now() - config.replay_retention))
            if config.retention_days:
                await _expire(services, int(services.now() - config.retention_days * DAY))
        await trio.sleep(PRUNE_INTERVAL)


async def _expire(services: Services, before: int) -> None:
    while await services.store.expire(before):
        pass


async def sweep_deleted(services: Services, turns: Registry) -> None:
    """Erase what was deleted, ``erase_after`` seconds later, from the disk as well.

    What a process before this one deleted is erased at once.
    """
    store, delay = services.store, 0.0
    while True:
        try:
            mark = await store.deletions()
            await trio.sleep(delay)
            # A turn that began before the deletion may continue what was deleted.
            await turns.wait_for_running()
            await services.unrecorded.flush()
            while await store.sweep(mark) >= SWEEP_LIMIT:
                pass
        except StoreError:
            # The store has logged it, and it is tried again.
            await trio.sleep(services.config.erase_after)
        delay = services.config.erase_after
