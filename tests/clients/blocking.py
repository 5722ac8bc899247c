"""An asyncio client without its ``await``: one scenario serves the sync and the async class."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Iterator


class Blocking:
    """Wraps a client, and whatever of its async things a caller reaches through it."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(getattr(self._target, name))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._wrapped(self._target(*arguments, **options))

    def __iter__(self) -> Iterator[Any]:
        iterator = aiter(self._target)
        while True:
            try:
                yield self._run(anext(iterator))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Any:
        return self._wrapped(self._run(self._target.__aenter__()))

    def __exit__(self, *exception: Any) -> Any:
        return self._run(self._target.__aexit__(*exception))

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        async def settle() -> Any:
            return await awaitable

        return self._runner.run(settle())

    def _wrapped(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._run(value)
        if inspect.isroutine(value) or any(hasattr(value, each) for each in ("__aiter__", "__aenter__")):
            return Blocking(value, self._runner)
        if type(value).__module__.startswith("openai.resources"):
            return Blocking(value, self._runner)
        return value
