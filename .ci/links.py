"""Write the public address of the repository to where it is needed; `make links` runs this.

The address stands in pyproject.toml, ``[project.urls] Repository``, and nowhere else. From it come
the badges and the line to clone in README.md, ``repository-code`` in CITATION.cff, and the first
cell of code in every notebook, which sets Google Colab up. Without an address there is no badge,
and README.md says how to open a notebook in Colab by hand.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("MALIS_training", "Inference", "Evaluation")
PLACE = re.compile(r"(<!-- link: (\w+) -->\n).*?(<!-- end -->)", re.S)
CELL_ID, BADGE_ID = "colab", "colab-badge"

SETUP = """\
# Google Colab: fetch the repository and install what Colab lacks. Elsewhere this cell does nothing.
import sys
from pathlib import Path

REPOSITORY = "{address}"  # the address to clone

if "google.colab" in sys.modules and not Path("malis/pairs.py").exists():
    if not Path("malis-segmentation/malis").exists():
        if not REPOSITORY:
            raise ValueError("write the address of the repository into REPOSITORY, then run again")
        !git clone --quiet --depth 1 {{REPOSITORY}} malis-segmentation
    %cd malis-segmentation
    # Whatever Colab has stays as it is: its versions are the constraints.
    !{{sys.executable}} -m pip list --format=freeze > present.txt
    !{{sys.executable}} -m pip install --quiet -c present.txt -e ".[train]"
"""

BY_HAND = """\
**In Google Colab**: upload a notebook (*File > Upload notebook*), write the address of the
repository into `REPOSITORY` in its first cell, and run all cells. The first cell clones the
repository and installs what Colab lacks; it changes no package that Colab has.
"""
BY_BADGE = """\
**In Google Colab**: {badges}. The first cell clones the repository and installs what Colab lacks;
it changes no package that Colab has.
"""
CLONE = """\
```bash
git clone --depth 1 {address} malis-segmentation
cd malis-segmentation
```
"""
CLONE_BY_HAND = """\
In a clone or an unpacked archive of this repository:
"""


def public_address(root: Path = ROOT) -> str:
    """Read the address in pyproject.toml; empty if there is none yet."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Repository", "").rstrip("/")


def colab_badge(address: str, notebook: str, image: str) -> str | None:
    """Return a Markdown badge that opens a notebook in Colab, which can only open from GitHub."""
    github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", address)
    if not github:
        return None
    place = f"https://colab.research.google.com/github/{github[1]}/blob/main/notebooks"
    return f"[![{image}](https://colab.research.google.com/assets/colab-badge.svg)]({place}/{notebook}.ipynb)"


def readme_with(text: str, address: str) -> str:
    """Fill the places of README.md that depend on the address."""
    badges = [colab_badge(address, name, f"Open {name} in Colab") for name in NOTEBOOKS]
    parts = {
        "clone": CLONE.format(address=address) if address else CLONE_BY_HAND,
        "colab": BY_BADGE.format(badges=" ".join(badges)) if all(badges) else BY_HAND,
    }
    return PLACE.sub(lambda place: place[1] + parts[place[2]] + place[3], text)


def citation_with(text: str, address: str) -> str:
    """Put the address into CITATION.cff, or take it out."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f'repository-code: "{address}"\n' if address else ""
    return text.replace("license: MIT\n", "license: MIT\n" + line, 1)


def notebook_with(text: str, name: str, address: str) -> str:
    """Give a notebook the cell that sets Colab up, after its title, and a badge above."""
    notebook = nbformat.reads(text, as_version=4)
    cells = [cell for cell in notebook.cells if cell.get("id") not in (CELL_ID, BADGE_ID)]
    setup = nbformat.v4.new_code_cell(SETUP.format(address=address).rstrip("\n"), id=CELL_ID)
    after_title = next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    cells.insert(after_title, setup)
    badge = colab_badge(address, name, "Open in Colab")
    if badge:
        cells.insert(0, nbformat.v4.new_markdown_cell(badge, id=BADGE_ID))
    old = {cell.get("id"): cell for cell in notebook.cells}
    if CELL_ID in old:  # executed like the cells around it
        setup.execution_count = old[CELL_ID].execution_count
    notebook.cells = [
        old[cell.id] if cell.id in old and old[cell.id].source == cell.source else cell
        for cell in cells
    ]
    return nbformat.writes(notebook) + "\n"


def update(root: Path = ROOT) -> list[Path]:
    """Write the address everywhere; a file that does not change is not touched.

    Returns
    -------
    list of Path
        The files that changed.
    """
    address = public_address(root)
    pages = {
        root / "README.md": lambda text, _: readme_with(text, address),
        root / "CITATION.cff": lambda text, _: citation_with(text, address),
    }
    for name in NOTEBOOKS:
        pages[root / "notebooks" / f"{name}.ipynb"] = lambda text, name: notebook_with(
            text, name, address
        )
    changed = []
    for path, rewritten in pages.items():
        before = path.read_text()
        after = rewritten(before, path.stem)
        if after != before:
            temporary = path.with_name(path.name + ".part")
            temporary.write_text(after)
            temporary.replace(path)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in update():
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
