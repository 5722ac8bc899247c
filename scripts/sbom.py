"""Prints a CycloneDX bill of materials of the environment that runs it: what a wheel brings along.

The same environment gives the same document: it has neither a time nor a random number.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import Distribution, distributions
from typing import Any

NAME = "agentic-trio"


def main() -> None:
    found = {normalized(each.metadata["Name"]): each for each in distributions()}
    own = found.pop(NAME)
    for installer in ("pip", "setuptools", "wheel"):
        found.pop(installer, None)
    components = [component(found[name]) for name in sorted(found)]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**component(own), "type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": purl(each), "dependsOn": sorted(needs(each, found))} for each in (own, *found.values())
        ],
    }
    print(json.dumps(document, indent=2))


def component(each: Distribution) -> dict[str, Any]:
    licence = each.metadata.get("License-Expression") or each.metadata.get("License") or ""
    known = {"licenses": [{"license": {"name": licence}}]} if licence and "\n" not in licence else {}
    name = each.metadata["Name"]
    return {
        "type": "library",
        "bom-ref": purl(each),
        "name": name,
        "version": each.version,
        "purl": purl(each),
        **known,
    }


def needs(each: Distribution, found: dict[str, Distribution]) -> set[str]:
    """What it depends on, of what is installed; extras that weren't asked for are not."""
    plain = [line for line in each.requires or () if "extra ==" not in line]
    names = {normalized(re.match(r"[\w.-]+", line)[0]) for line in plain}  # type: ignore[index]
    return {purl(found[name]) for name in names & found.keys()}


def purl(each: Distribution) -> str:
    return f"pkg:pypi/{normalized(each.metadata['Name'])}@{each.version}"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
