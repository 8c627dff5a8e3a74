"""Print the lowest versions that pyproject.toml allows, of the package and the extras named.

Torch is left as requirements-lock.txt has it.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lowest(extras: list[str]) -> list[str]:
    """List ``name==version`` of all direct requirements; an extra may name others."""
    listed = list(PROJECT["dependencies"])
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    found = []
    for one in listed:
        own = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", one)
        if own:
            found += lowest(own[1].split(","))
        elif not one.startswith("torch>"):
            found.append(re.match(r"[^,]+", one)[0].replace(">=", "=="))
    (torch,) = re.findall(r"^torch==.+$", (ROOT / "requirements-lock.txt").read_text(), re.M)
    return sorted({torch, *found})


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(sys.argv[1:])) + "\n")
