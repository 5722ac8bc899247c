"""Response bodies that are their own iterators: a dropped generator can't be closed on Trio."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from quart.wrappers.response import ResponseBody

if TYPE_CHECKING:
    from types import TracebackType


class PlainBody(ResponseBody):
    """A body that owns nothing, so that there is nothing to close."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the chunk given last is the last one. If that isn't known, the next ``__anext__`` tells."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next chunk."""
