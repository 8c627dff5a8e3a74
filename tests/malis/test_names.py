"""What README files, docstrings and messages mention exists, by the name that they give it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("malis", "cremi_eval", "unet", "data", "report", "benchmarks")
READMES = ("README.md", *(f"{package}/README.md" for package in PACKAGES))
DOTTED = re.compile(r"(?<![\w./-])(?:malis|cremi_eval|unet)(?:\.[A-Za-z_]\w*)+")
IMPORTED = re.compile(r"^ *from ((?:malis|cremi_eval|unet)[\w.]*) import ([\w, ]+)$", re.MULTILINE)
OLD_PATH = re.compile(r"^\| [^|]*\|", re.MULTILINE)  # first column of a table of what has moved


def names_in(text):
    """List the dotted names of a text, and those that its code imports."""
    imported = [
        f"{module}.{name.split(' as ')[0].strip()}"
        for module, names in IMPORTED.findall(text)
        for name in names.split(",")
    ]
    return sorted({*DOTTED.findall(text), *imported})


def exists(name):
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if error.name != ".".join(parts[:n]) and n > 1 and "is not a package" not in str(error):
                return True  # it is there, but needs an extra
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def strings(path):
    """Return all texts of a module: docstrings, help, messages."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_a_name_that_does_not_exist_is_found():
    text = "See `malis.pair_counts`, malis.nothing and unet.UNet.forward.\nfrom malis import none"
    names = names_in(text)
    assert names == ["malis.none", "malis.nothing", "malis.pair_counts", "unet.UNet.forward"]
    assert [name for name in names if not exists(name)] == ["malis.none", "malis.nothing"]


@pytest.mark.parametrize("readme", READMES)
def test_names_in_readme_files(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    if readme == "malis/README.md":
        text = OLD_PATH.sub("", text)
    assert [name for name in names_in(text) if not exists(name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_names_in_docstrings_and_messages(package):
    missing = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        absent = [name for name in names_in(strings(path)) if not exists(name)]
        if absent:
            missing[str(path.relative_to(ROOT))] = absent
    assert missing == {}
