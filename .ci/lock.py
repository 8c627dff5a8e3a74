"""Turn a report of ``pip install --dry-run --report`` into exact requirements.

Local versions (2.13.0+cpu) lose what follows the plus. What torch itself pins for one kind of
machine (CUDA, Triton) is left out, so that the list serves every machine.
"""

import json
import re
import sys

HEADER = "# Exact versions of all packages that `make` installs; written by `make lock`."
OF_TORCH = re.compile(r"nvidia-|cuda-|triton")


def pins(report: dict) -> list[str]:
    """List the packages of a report as ``name==version``, without the project itself."""
    found = {
        re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(): one["metadata"]["version"]
        for one in report["install"]
        if "dir_info" not in one["download_info"]
    }
    return [
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(found.items())
        if not OF_TORCH.match(name)
    ]


if __name__ == "__main__":
    sys.stdout.write("\n".join([HEADER, *pins(json.load(sys.stdin))]) + "\n")
