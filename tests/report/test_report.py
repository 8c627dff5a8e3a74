import json
import re
import shutil
from pathlib import Path

import pypdf
import pytest
import typst

from report import build, comparisons, runs
from report.configurations import DATA, METHODS, SEEDS
from report.configurations import runs as configured_runs
from report.record import RESULTS

ROOT = Path(__file__).parents[2]
PDFS = ("Report.pdf", "presentation.pdf")
CHAPTERS = sorted((ROOT / "report" / "chapters").glob("*.typ"))


def texts(path):
    return [page.extract_text() for page in pypdf.PdfReader(path).pages]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """Both PDFs, built anew from the committed results, and what they were compiled from."""
    target, sources = (tmp_path_factory.mktemp(name) for name in ("pdf", "sources"))
    build.build(target, keep=sources)
    return target, sources


@pytest.mark.parametrize("name", PDFS)
def test_every_page_follows_from_the_results(rebuilt, name):
    assert texts(ROOT / name) == texts(rebuilt[0] / name), f"{name} is stale: run `make report`"


def test_a_build_is_reproducible_to_the_byte(rebuilt, tmp_path):
    build.build(tmp_path)
    for name in PDFS:
        assert (tmp_path / name).read_bytes() == (rebuilt[0] / name).read_bytes()


def test_a_changed_score_changes_both_documents(rebuilt, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(RESULTS, results)
    path = next((results / "runs").glob("*_unet-cross-entropy_*.json"))
    run = json.loads(path.read_text())
    run["scores"]["agglomeration"]["mean"]["cremi_score"] = 7.654
    path.write_text(json.dumps(run))
    build.build(tmp_path, results)
    before = {name: "\n".join(texts(rebuilt[0] / name)) for name in PDFS}
    after = {name: "\n".join(texts(tmp_path / name)) for name in PDFS}
    assert after["Report.pdf"] != before["Report.pdf"]
    assert after["presentation.pdf"] != before["presentation.pdf"]
    assert "7.654" not in before["Report.pdf"]


@pytest.mark.parametrize("name", PDFS)
def test_every_font_is_embedded_and_no_placeholder_is_left(rebuilt, name):
    reader = pypdf.PdfReader(rebuilt[0] / name)
    fonts = {}
    for page in reader.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            font = font.get_object()
            inner = font.get("/DescendantFonts", [font])[0].get_object()
            fonts[font["/BaseFont"]] = set(inner["/FontDescriptor"])
    assert any("Libertinus" in font for font in fonts)
    for font, keys in fonts.items():
        assert keys & {"/FontFile", "/FontFile2", "/FontFile3"}, font
    text = "\n".join(texts(rebuilt[0] / name))
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|NaN|nan|None)\b|[Ll]orem|\?\?|�", text)


def test_length(rebuilt):
    assert 12 <= len(texts(rebuilt[0] / "Report.pdf")) <= 20
    assert 18 <= len(texts(rebuilt[0] / "presentation.pdf")) <= 28


def test_every_slide_has_speaker_notes(rebuilt):
    target, sources = rebuilt
    found = typst.query(sources / "presentation.typ", "<note>", root=sources, field="value")
    notes = json.loads(found)
    assert len(notes) == len(texts(target / "presentation.pdf"))
    assert all(len(note.split()) > 15 for note in notes)


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("@fig-nowhere", "does not exist"),
        ("@nobody1900", "does not exist"),
        ('#text(font: "No Such Font")[a]', "unknown font family"),
        ("#numbers.nothing", "nothing"),
    ],
)
def test_a_broken_reference_or_a_missing_font_is_an_error(tmp_path, rebuilt, source, complaint):
    broken = tmp_path / "sources"
    shutil.copytree(rebuilt[1], broken)
    with (broken / "report.typ").open("a") as file:
        file.write(f"\n{source}\n")
    with pytest.raises(build.BuildError, match=complaint):
        build.compile_documents(broken, tmp_path, "2026-01-01T00:00:00+00:00")
    assert not (tmp_path / "Report.pdf").exists()


def test_no_chapter_holds_a_number_of_its_own():
    own = re.compile(r"(?<![\w.])\d+\.\d+(?!\s*(?:pt|cm|em|fr|%))")
    allowed = {"maximin.typ": {"0.3"}}  # the margin of the paper
    for path in CHAPTERS:
        text = re.sub(r"#?(rules|table|text|set|v|h)\(.*?\)", "", path.read_text())
        found = set(own.findall(text)) - allowed.get(path.name, set())
        assert not found, f"{path.name}: {found}"


def test_tables_say_which_runs_are_missing(tmp_path):
    """Means and deviations over seeds by hand, and a command for everything else."""
    (tmp_path / "runs").mkdir()
    example = next((RESULTS / "runs").glob("*_unet-both_*.json"))
    for seed, score in ((0, 0.2), (1, 0.4)):
        run = json.loads(example.read_text()) | {"data": "synthetic", "seed": seed}
        run["scores"]["agglomeration"]["mean"]["cremi_score"] = score
        for kind in ("threshold_watershed", "views_threshold_watershed"):
            run["scores"][kind]["candidates"] = {"threshold": [0.1, 0.5]}
            run["scores"][kind]["threshold"] = 0.5 if seed and "views" in kind else 0.1
        (tmp_path / "runs" / f"synthetic_unet-both_{seed}.json").write_text(json.dumps(run))
    found = runs.load_runs(tmp_path)
    rows = {row["method"]: row for row in comparisons.data_table("synthetic", found)["rows"]}
    assert rows["unet-both"]["seeds"] == [0, 1]
    assert rows["unet-both"]["scores"]["cremi_score"] == {
        "mean": pytest.approx(0.3),
        "spread": pytest.approx(0.02**0.5),
        "n": 2,
    }
    assert rows["unet-malis"]["scores"]["cremi_score"] is None

    missing = runs.missing_runs(found)
    total = sum(len(group["methods"]) * len(group["seeds"]) for group in missing)
    assert total == len(configured_runs(list(DATA), list(METHODS), SEEDS)) - 2
    commands = [group["command"] for group in missing]
    asked = "python -m report.experiments --only synthetic --methods unet-both"
    assert f"{asked} --seeds 2" in commands
    (repeat,) = runs.open_ended_runs(found)
    assert repeat["command"] == f"{asked} --seeds 1 --no-resume"
    assert any("1 runs on synthetic to repeat" in line for line in build.what_is_missing(tmp_path))


def test_without_any_run_the_documents_say_so(tmp_path):
    results = tmp_path / "results"
    shutil.copytree(
        RESULTS, results, ignore=shutil.ignore_patterns("runs", "folds", "lengths", "trials")
    )
    build.build(tmp_path, results)
    text = " ".join("".join(texts(tmp_path / "Report.pdf")).split())
    assert text.count("Not run: no method has a result on this volume yet") == len(DATA)
    missing = build.what_is_missing(results)
    planned = configured_runs(list(DATA), list(METHODS), SEEDS)
    assert sum(int(line.split()[0]) for line in missing if " runs on " in line) == len(planned)


def test_methods_are_compared_on_common_seeds_only():
    def run(loss, score):
        return {
            "losses": [{"loss": {"name": loss}}],
            "scores": {"agglomeration": {"mean": {"cremi_score": score}}},
        }

    found = {
        ("synthetic", "unet-cross-entropy"): {
            0: run("AffinityCrossEntropy", 0.5),
            1: run("AffinityCrossEntropy", 0.1),
        },
        ("synthetic", "unet-malis"): {
            0: run("MalisLoss", 0.3),
            1: run("MalisLoss", 0.2),
            2: run("MalisLoss", 0.0),
        },
        ("synthetic", "cnn-2009"): {0: run("MaximinLoss", 0.9)},  # another network
    }
    (row,) = comparisons.compare_with_baseline("synthetic", found)
    assert (row["method"], row["seeds"], row["lower"]) == ("unet-malis", 2, 1)
    assert row["mean"] == pytest.approx(0.25)
    assert row["baseline_mean"] == pytest.approx(0.3)


def test_pictures_of_tissue_say_what_they_are():
    cards = sorted(runs.GALLERY.glob("*/card.json"))
    assert cards
    for path in cards:
        card = json.loads(path.read_text())
        assert path.parent.name == f"{card['data']}_{card['section']}"
        assert card["source"] == DATA[card["data"]].source
        assert card["section"] in DATA[card["data"]].split.test
        pictures = {"raw", "truth", *card["networks"]}
        pictures |= {one["affinities"] for one in card["networks"].values() if "affinities" in one}
        assert pictures <= {picture.stem for picture in path.parent.glob("*.png")}
        for network in card["networks"].values():
            assert {"seed", "sha256", "threshold", "revision", "scores"} <= set(network)
        for picture in path.parent.glob("*.png"):
            assert picture.stat().st_size <= 300_000, picture
