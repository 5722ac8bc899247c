"""The keys that seal what clients carry: from a file, or made once and kept with the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentic_trio.errors import ConfigError

try:
    from agentic_trio.wire import sealing
except ImportError:
    sealing = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from agentic_trio.config import Config
    from agentic_trio.store.contract import Store
    from agentic_trio.wire.sealing import Sealing

SECRET = "seal_key"
"""The name under which the store keeps the key."""

MAX_KEYS = 100
"""How many keys a file may hold. What none of them has sealed costs a try of each."""


async def open_sealing(config: Config, store: Store) -> Sealing | None:
    """Return what seals with the configured keys; None without the extra ``seal``.

    Raises:
        ConfigError: the file can't be used.
        StoreError: the kept key can't be read.

    Cancellation: a key may have been kept.
    """
    path = config.seal_keys_file
    if sealing is None:
        if path is not None:
            raise ConfigError("seal_keys_file needs the extra seal: pip install 'agentic-trio[seal]'")
        return None
    if path is None:
        return sealing.Sealing([await store.secret(SECRET, sealing.new_key())])
    try:
        return sealing.Sealing(_keys_in(path))
    except ValueError:
        raise ConfigError("seal_keys_file has a line that is no key: 32 bytes in URL-safe base64") from None


def _keys_in(path: str) -> list[bytes]:
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"seal_keys_file can't be read: {error.strerror or error}") from None
    keys = [key for line in lines if (key := line.strip()) and not key.startswith(b"#")]
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ConfigError(f"seal_keys_file must have from 1 to {MAX_KEYS} keys, one a line")
    return keys
