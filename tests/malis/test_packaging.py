import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(name):
    """Read the requirements of a file, by name."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {one.name: one.specifier for one in found}


@pytest.mark.parametrize(
    ("listed", "file"),
    [
        (PROJECT["dependencies"], "requirements.txt"),
        (PROJECT["optional-dependencies"]["scale"], "requirements-scale.txt"),
    ],
)
def test_what_is_installed_with_the_packages_is_what_was_tested(listed, file):
    tested = pinned(file)
    for one in map(Requirement, listed):
        if one.name == "torch":
            (pin,) = tested["torch"]
            assert pin.operator == "==" and one.specifier.contains(pin.version)
        else:
            assert one.specifier == tested[one.name], one.name
    if "scale" in file:
        assert len(listed) == len(tested)


def test_the_command_is_there():
    module, _, function = PROJECT["scripts"]["malis"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
