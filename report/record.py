"""Results as JSON: what was measured, by which code, where and when."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "report" / "results"
PACKAGES = ("torch", "higra", "numpy", "scipy", "h5py", "scikit-image", "monai")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Describe the machine, the versions and the moment.

    Parameters
    ----------
    device : str
        The torch device that computed.

    Returns
    -------
    dict
        JSON-able.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "device": _device_name(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def revision(root: Path = ROOT) -> str | None:
    """Name the commit that is checked out.

    Parameters
    ----------
    root : Path
        Of the working tree.

    Returns
    -------
    str or None
        With "-dirty" where a file has been changed since, other than a result: a run that is made
        again replaces its own. None without Git.
    """
    commit = _git("describe", "--always", root=root)
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!report/results", root=root
    )
    return f"{commit}-dirty" if commit and changed else commit


def write_results(name: str, results: dict[str, Any], *, device: str = "cpu") -> Path:
    """Write ``report/results/<name>.json``: the results and the environment they come from.

    Parameters
    ----------
    name : str
        File name without suffix, perhaps in a folder.
    results : dict
        JSON-able.
    device : str
        The torch device that computed.

    Returns
    -------
    Path
        Written under a temporary name and renamed; an earlier result of that name is replaced.
    """
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps({"environment": environment(device), **results}, indent=1) + "\n")
    part.replace(path)
    return path


def _git(*arguments: str, root: Path = ROOT) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return device


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
