"""`malis` finds its own `unet` beside projects that have another one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
USE = """
from malis.training import load_model
import malis, malis.cli
import pickle, torch
network = load_model(sys.argv[1]).network
print(type(network).__name__, tuple(network(torch.zeros(1, 5, 64, 64)).shape))
print(type(pickle.loads(pickle.dumps(network))) is type(network))
"""


def run(folder, script, **settings):
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{script}", ROOT / "data/models/synthetic.model"],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | settings,
    )  # fmt: skip


@pytest.fixture(params=["unet.py", "unet/__init__.py", "unet/model.py"])
def project(request, tmp_path):
    """A folder with a module of that name, which must not even be run."""
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('their module was run')")
    return tmp_path


def test_a_module_of_the_user_s_is_left_alone(project):
    done = run(project, USE)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.splitlines() == ["UNet (1, 3, 64, 64)", "True"]


def test_the_user_s_network_stays_theirs(tmp_path):
    (tmp_path / "unet.py").write_text("class UNet: theirs = True")
    script = f"from unet import UNet\n{USE}\nimport unet\nprint(UNet.theirs, unet.UNet is UNet)"
    done = run(tmp_path, script)
    assert done.stdout.splitlines()[1:] == ["True", "True True"], done.stderr


def test_without_another_one_there_is_one_class(tmp_path):
    script = f"{USE}\nfrom unet import UNet\nprint(type(network) is UNet)"
    done = run(tmp_path, script)
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_what_shadows_it_is_named_where_there_is_none(tmp_path):
    site = tmp_path / "site"
    for package in ("malis", "cremi_eval"):
        shutil.copytree(ROOT / package, site / package)
    (tmp_path / "unet.py").write_text("class UNet: pass")
    done = run(tmp_path, "import malis.training", PYTHONPATH=str(site))
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: malis needs the package unet that is installed with it, but "
        f"{tmp_path / 'unet.py'} comes first"
    )
