"""Write all public names with one line each into malis/README.md; `make api` runs this.

The lines are the first lines of the docstrings. What stands outside the two marks of the page is
written by hand.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "malis" / "README.md"
PLACE = re.compile(r"(<!-- api -->\n).*(<!-- end -->)", re.S)
PACKAGES = (
    *("malis", "malis.training", "malis.inference", "malis.segmentation", "malis.scale"),
    *("malis.pictures", "unet", "cremi_eval", "cremi_eval.evaluation"),
)


def first_line(text: str | None) -> str:
    """Return the first line of a docstring, fit for a cell of a Markdown table."""
    line = (text or "").strip().partition("\n")[0].replace("|", "\\|")
    return re.sub(r":math:`(.+?)`", r"$\1$", line)


def public_names(package: str) -> list[str]:
    """List what a package offers: its ``__all__``, or else the functions and classes in it."""
    module = importlib.import_module(package)
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=str.lower)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == package
    )


def table(package: str) -> str:
    """Tell the public names of a package, each with a link to its file."""
    module = importlib.import_module(package)
    rows = []
    for name in public_names(package):
        value = getattr(module, name)
        if not callable(value):  # constants have no docstring
            continue
        file = Path(inspect.getsourcefile(inspect.unwrap(value))).relative_to(ROOT)
        link = file.relative_to("malis") if file.parts[0] == "malis" else Path("..") / file
        rows.append(f"| [`{name}`]({link.as_posix()}) | {first_line(inspect.getdoc(value))} |")
    head = [
        f"### `{package}`",
        "",
        first_line(module.__doc__),
        "",
        "| name | what it does |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def commands() -> str:
    """Tell the commands of ``python -m malis``."""
    cli = importlib.import_module("malis.cli")
    rows = []
    for command in cli.COMMANDS:
        name = command.__name__.rpartition(".")[2]
        rows.append(f"| [`python -m malis {name}`](cli/{name}.py) | {first_line(command.HELP)} |")
    head = ["### Command line", "", "| command | what it does |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def filled(page: str) -> str:
    """Put the names as they are now into the page."""
    names = "\n".join([*map(table, PACKAGES), commands()])
    return PLACE.sub(lambda place: f"{place[1]}\n{names}\n{place[2]}", page)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    temporary = PAGE.with_name(PAGE.name + ".part")
    temporary.write_text(filled(PAGE.read_text()))
    temporary.replace(PAGE)
