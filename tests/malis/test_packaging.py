"""What is installed, where, and what a missing package says."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOTEBOOKS = ("MALIS_training", "Inference", "Evaluation")


def script(name):
    """Import a script of .ci."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(name):
    """Read a file of requirements without its comments."""
    text = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in text if line]


def run(*command, **settings):
    return subprocess.run(command, capture_output=True, text=True, **settings)


class TestRequirements:
    def test_every_requirement_has_one_exact_version_in_its_range(self):
        pins = map(Requirement, lines("requirements-lock.txt"))
        exact = {one.name: one.specifier for one in pins}
        for one in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
            if one.name == PROJECT["name"]:
                assert one.extras <= set(EXTRAS)
                continue
            (pin,) = exact[canonicalize_name(one.name)]
            assert pin.operator == "==" and one.specifier.contains(pin.version), one.name

    def test_exact_versions_serve_every_machine(self):
        for line in lines("requirements-lock.txt"):
            assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line), line
            assert not line.startswith(("nvidia", "triton", "malis"))

    def test_a_report_of_pip_becomes_exact_versions(self):
        found = [("torch", "2.13.0+cpu"), ("Jinja2", "3.1.6"), ("nvidia-nccl-cu13", "2.1")]
        install = [
            {"metadata": {"name": name, "version": number}, "download_info": {"archive_info": {}}}
            for name, number in found
        ]
        itself = {"metadata": {"name": "malis", "version": "1"}, "download_info": {"dir_info": {}}}
        pins = script("lock").pins({"install": [*install, itself]})
        assert pins == ["jinja2==3.1.6", "torch==2.13.0"]

    def test_the_lowest_versions_are_those_of_the_ranges_but_for_torch(self):
        lowest = script("lowest").lowest(["notebooks"])
        assert {"numpy==1.26.4", "scipy==1.11.4", "scikit-image==0.22"} <= set(lowest)
        assert [one for one in lowest if one.startswith("torch==")] == [
            one for one in lines("requirements-lock.txt") if one.startswith("torch==")
        ]
        names = {one.partition("==")[0] for one in lowest}
        assert names >= {Requirement(one).name for one in PROJECT["dependencies"] + EXTRAS["train"]}

    @pytest.mark.parametrize(("system", "allowed"), [("linux", True), ("win32", False)])
    def test_integers_have_64_bits(self, system, allowed):
        numpy = [one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "numpy"]
        there = [r for r in numpy if not r.marker or r.marker.evaluate({"sys_platform": system})]
        assert all(one.specifier.contains("1.26.4") for one in there) == allowed

    def test_the_command_is_there(self):
        module, _, function = PROJECT["scripts"]["malis"].partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


class TestMissingPackages:
    def test_every_extra_that_is_named_brings_the_package(self):
        brought_by = packages_distributions()
        found = set()
        for path in (ROOT / "malis").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                named = getattr(getattr(node, "func", None), "id", "") if node else ""
                if named != "extra_package":
                    continue
                values = [one.value for one in node.args if isinstance(one, ast.Constant)]
                if len(values) == 2:
                    found.add((values[0].partition(".")[0], values[1]))
        assert {("monai", "train"), ("zarr", "scale"), ("matplotlib", "notebooks")} <= found
        for module, extra in found:
            names = {Requirement(one).name for one in EXTRAS[extra]}
            assert names & set(brought_by.get(module, [module])), (module, extra)

    @pytest.mark.parametrize(
        ("package", "program", "extra"),
        [
            ("matplotlib", "import malis.pictures", "notebooks"),
            (
                "monai",
                "from malis.training import augmentation as a; a.grey_value_changes()",
                "train",
            ),
        ],
    )
    def test_the_error_names_the_extra_in_one_line(self, package, program, extra):
        blocked = f"import sys, malis; sys.modules[{package!r}] = None;"
        done = run(sys.executable, "-c", blocked + program, cwd=ROOT)
        assert done.stderr.splitlines()[-1] == (
            f"ModuleNotFoundError: this needs {package}, which the extra [{extra}] brings: "
            f'pip install ".[{extra}]" in a clone of the repository'
        )

    def test_the_losses_load_no_package_of_an_extra(self):
        program = (
            "import sys; sys.modules['matplotlib'] = None; import malis, malis.training;"
            "print([n for n in ('skimage', 'monai', 'zarr', 'dask', 'numba') if n in sys.modules])"
        )
        assert run(sys.executable, "-c", program, cwd=ROOT).stdout == "[]\n"


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Build the wheel and the source archive of a copy of what a build reads."""
    pytest.importorskip("build", reason="needs the extra dev")
    folder = tmp_path_factory.mktemp("build")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.splitlines():
        if name.endswith(".ipynb") or name.startswith(("report/", "tests/fixtures", "data/models")):
            continue
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    done = run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,), (source,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, source


class TestArchives:
    def test_they_hold_the_packages_and_neither_tests_nor_results(self, archives):
        wheel, source = archives
        with zipfile.ZipFile(wheel) as file:
            top = {name.partition("/")[0] for name in file.namelist()}
            assert {"malis/loss.py", "malis/cli/sections.toml"} <= set(file.namelist())
        number = PROJECT["version"]
        assert top == {"malis", "unet", "cremi_eval", f"malis_segmentation-{number}.dist-info"}
        with tarfile.open(source) as file:
            inside = {name.split("/")[1] for name in file.getnames() if "/" in name}
        assert inside == {
            *("malis", "unet", "cremi_eval", "malis_segmentation.egg-info"),
            *("LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"),
        }

    def test_the_method_passes_its_tests_where_only_the_wheel_is(self, archives, tmp_path):
        """Without the repository on the path and without the packages of any extra."""
        with zipfile.ZipFile(archives[0]) as file:
            file.extractall(tmp_path / "site")
        tests = ("test_affinity", "test_maximin", "test_sampling", "test_loss", "test_composite")
        tested = [ROOT / "tests" / "malis" / f"{name}.py" for name in ("conftest", *tests)]
        for path in (*tested, *(ROOT / "tests" / "helpers").glob("*.py")):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        extras = {"matplotlib", "monai", "zarr", "dask", "numba", "ipywidgets"}
        block = f"import sys\nsys.modules.update(dict.fromkeys({sorted(extras)}))\n"
        where = "import malis\nassert malis.__file__.startswith(sys.path[1])\n"
        (tmp_path / "bare.py").write_text(block + where)
        path = os.pathsep.join([str(tmp_path / "site"), str(tmp_path)])
        done = run(
            *(sys.executable, "-m", "pytest", "-q", "-p", "bare", "-p", "no:cacheprovider"),
            *(str(tmp_path), "-k", "not compiled"),  # that takes long
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "PYTHONSAFEPATH": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1])


class TestApiPage:
    def test_the_page_of_public_names_is_that_of_the_docstrings(self):
        page = (ROOT / "malis" / "README.md").read_text()
        assert script("api").filled(page) == page, "make api writes it anew"

    def test_every_public_name_has_a_line(self):
        page = (ROOT / "malis" / "README.md").read_text()
        for line in re.findall(r"^\| \[`.*$", page, re.M):
            name, says = (part.strip() for part in line.strip("|").split("|", 1))
            assert len(says) > 10, name
            (link,) = re.findall(r"\]\((.+)\)", name)
            assert (ROOT / "malis" / link).is_file()


ADDRESS = "https://github.com/someone/somewhere"


@pytest.fixture
def copy(tmp_path):
    """A folder with the files that an address is written to."""
    (tmp_path / "notebooks").mkdir()
    files = ["README.md", "CITATION.cff", "pyproject.toml"]
    for name in [*files, *(f"notebooks/{one}.ipynb" for one in NOTEBOOKS)]:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def give_address(folder, address):
    path = folder / "pyproject.toml"
    text = re.sub(r"^(# )?Repository = .*\n", "", path.read_text(), flags=re.M)
    line = f'Repository = "{address}"\n' if address else ""
    path.write_text(text.replace("[project.urls]\n", "[project.urls]\n" + line))


class TestPublicAddress:
    def test_what_is_committed_follows_pyproject(self, copy):
        assert script("links").update(copy) == []

    def test_an_address_is_written_everywhere_and_taken_back(self, copy):
        update = script("links").update
        give_address(copy, "")
        update(copy)
        bare = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        give_address(copy, ADDRESS)
        assert len(update(copy)) == 5
        readme = (copy / "README.md").read_text()
        assert f"git clone --depth 1 {ADDRESS} malis-segmentation" in readme
        assert f'repository-code: "{ADDRESS}"' in (copy / "CITATION.cff").read_text()
        for name in NOTEBOOKS:
            place = f"github/someone/somewhere/blob/main/notebooks/{name}.ipynb"
            assert f"https://colab.research.google.com/{place}" in readme
            notebook = nbformat.read(copy / "notebooks" / f"{name}.ipynb", 4)
            nbformat.validate(notebook)
            assert place in notebook.cells[0].source
            assert f'REPOSITORY = "{ADDRESS}"' in setup_cell(copy, name)
        assert update(copy) == []
        give_address(copy, "")
        update(copy)
        assert {path: path.read_bytes() for path in bare} == bare

    def test_without_an_address_no_badge_leads_nowhere(self, copy):
        give_address(copy, "")
        script("links").update(copy)
        for path in copy.rglob("*"):
            if path.is_file():
                assert b"colab.research.google.com" not in path.read_bytes()
        assert "Upload notebook" in (copy / "README.md").read_text()

    def test_colab_opens_from_github_alone(self, copy):
        give_address(copy, "https://gitlab.com/someone/somewhere")
        script("links").update(copy)
        readme = (copy / "README.md").read_text()
        assert "git clone --depth 1 https://gitlab.com/someone/somewhere" in readme
        assert "colab.research.google.com" not in readme


def setup_cell(folder, name):
    """Return the first cell of code of a notebook."""
    notebook = nbformat.read(folder / "notebooks" / f"{name}.ipynb", 4)
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


def run_cell(source, folder, colab, **environment):
    """Run a cell in IPython, as on Google Colab or elsewhere; print where that ends."""
    fake = "sys.modules['google.colab'] = sys;" if colab else ""
    program = (
        f"import sys, json, os; {fake}"
        "from IPython.core.interactiveshell import InteractiveShell as Shell;"
        "result = Shell.instance().run_cell(json.loads(sys.argv[1]));"
        "print('in', os.getcwd()); sys.exit(not result.success)"
    )
    home = {"IPYTHONDIR": str(folder / "ipython"), "TERM": "dumb"}
    return run(
        *(sys.executable, "-c", program, json.dumps(source)),
        cwd=folder,
        env={**os.environ, **home, **environment},
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_elsewhere_the_first_cell_does_nothing(name, tmp_path):
    done = run_cell(setup_cell(ROOT, name), tmp_path, colab=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"in {tmp_path}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ipython"]


def test_on_colab_the_first_cell_fetches_the_repository_and_touches_no_package(tmp_path):
    """Without the network: what is to be installed lies in this environment already."""
    if run("git", "rev-parse", cwd=ROOT).returncode:
        pytest.skip("needs a clone, not an unpacked archive")
    source = setup_cell(ROOT, "Inference")
    assert 'REPOSITORY = ""' in source or script("links").public_address()
    source = re.sub(r'REPOSITORY = ".*?"', f'REPOSITORY = "file://{ROOT}"', source)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DRY_RUN": "1"}
    source = source.replace("--quiet -c", "-c")  # say what would be installed
    done = run_cell(source, tmp_path, colab=True, **offline)
    assert f"in {tmp_path}/malis-segmentation\n" in done.stdout, done.stdout + done.stderr
    (would,) = re.findall(r"^Would install (.*)$", done.stdout, re.M)
    assert would == f"malis-segmentation-{PROJECT['version']}"
    present = (tmp_path / "malis-segmentation" / "present.txt").read_text()
    assert f"numpy=={version('numpy')}\n" in present


def test_on_colab_a_missing_address_is_one_clear_error(tmp_path):
    source = re.sub(r'REPOSITORY = ".*?"', 'REPOSITORY = ""', setup_cell(ROOT, "Inference"))
    done = run_cell(source, tmp_path, colab=True)
    assert done.returncode == 1
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert "ValueError: write the address of the repository into REPOSITORY" in said


class TestMake:
    def test_a_python_that_is_too_old_is_one_line(self, tmp_path):
        old = tmp_path / "python3"
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18\nexit 0\n')
        old.chmod(0o755)
        done = run("make", "test", f"PYTHON={old}", f"VENV={tmp_path}/venv", cwd=ROOT)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "Python 3.11 or later is needed" in line and "is Python 3.9.18" in line
        assert not (tmp_path / "venv").exists()

    def test_the_notebooks_run_in_the_kernel_of_the_environment(self, tmp_path):
        """A kernel "python3" that the user has installed, here a broken one, is left aside."""
        broken = tmp_path / "jupyter" / "kernels" / "python3"
        broken.mkdir(parents=True)
        spec = {"argv": ["false"], "display_name": "broken", "language": "python"}
        (broken / "kernel.json").write_text(json.dumps(spec))
        (tmp_path / "notebooks").mkdir()
        cell = nbformat.v4.new_code_cell("import sys; print(sys.prefix)")
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        tiny = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
        nbformat.write(tiny, tmp_path / "notebooks" / "tiny.ipynb")
        (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
        done = run(
            *("make", "notebooks", f"VENV={sys.prefix}", "NOTEBOOKS=tiny"),
            *("-o", f"{sys.prefix}/.installed-notebooks"),
            cwd=tmp_path,
            env={
                **os.environ,
                "JUPYTER_DATA_DIR": str(broken.parents[1]),
                "JUPYTER_PATH": str(broken.parents[1]),
                "JUPYTER_PREFER_ENV_PATH": "0",
            },
        )
        assert done.returncode == 0, done.stderr
        (output,) = nbformat.read(tmp_path / "results" / "tiny.ipynb", 4).cells[0].outputs
        assert Path(output.text.strip()) == Path(sys.prefix)
