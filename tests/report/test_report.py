import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pypdf
import pytest
import typst

import malis
from report import build
from report.configurations import DATA
from report.pages import GALLERY
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
    scores = pd.read_csv(results / "scores.csv.gz")
    own = scores["run"].str.fullmatch("folds/fib25_neighbours/unet-both/500/[0-4]")
    scores.loc[own & (scores["part"] == "test"), "cremi_score"] = 7.654
    scores.to_csv(results / "scores.csv.gz", index=False)
    build.build(tmp_path, results)
    before = {name: "\n".join(texts(rebuilt[0] / name)) for name in PDFS}
    after = {name: "\n".join(texts(tmp_path / name)) for name in PDFS}
    for name in PDFS:
        assert "7.654" in after[name] and "7.654" not in before[name]


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
    pages = texts(rebuilt[0] / "Report.pdf")
    appendix = next(number for number, page in enumerate(pages) if "A Seeds" in page)
    assert 12 <= appendix <= 16 and len(pages) <= 17
    assert 15 <= len(texts(rebuilt[0] / "presentation.pdf")) <= 18
    abstract = texts(rebuilt[0] / "Report.pdf")[0].split("Abstract.")[1].split("1 Introduction")[0]
    assert 150 <= len(re.sub(r"\[\d+\]", "", abstract).split()) <= 200


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
    allowed = {  # weights, CC BY, what is published
        "maximin.typ": {"0.3"},
        "experiments.typ": {"0.3", "3.0", "4.0"},
        "results.typ": {"0.025", "0.06"},
    }
    for path in CHAPTERS:
        text = re.sub(r"#?(rules|table|text|set|v|h)\(.*?\)", "", path.read_text())
        found = set(own.findall(text)) - allowed.get(path.name, set())
        assert not found, f"{path.name}: {found}"


def test_the_six_voxels_of_the_report_by_the_library():
    """The text and the two drawings of the tensor form, which no code draws any more."""
    affinities = np.array([[0, 0.2, 0.9, 0.5, 0.8, 0.7]], np.float32)
    labels = np.array([1, 2, 1, 1, 0, 2])
    each = np.arange(1, 7)
    positive, negative = malis.pair_counts(affinities, each, [(-1,)], constrained=False)
    assert not positive.any()
    assert negative[0].tolist() == [0, 5, 1, 6, 1, 2]  # a-b decides five pairs, all edges 15
    assert negative.sum() == 15
    for pair, affinity in (((3, 2), 0.5), ((2, 0), 0.2), ((5, 1), 0.5)):  # dc, ca, fb
        edge = malis.maximin_edges(affinities, [(-1,)], np.array([pair]))[0]
        assert affinities[tuple(edge)] == np.float32(affinity)
        assert labels[pair[0]] == labels[pair[1]]


def test_pictures_of_tissue_say_what_they_are():
    cards = sorted(GALLERY.glob("*/card.json"))
    assert cards
    for path in cards:
        card = json.loads(path.read_text())
        assert path.parent.name == card["data"]
        assert card["source"] == DATA[card["data"]].source
        assert card["section"] in (DATA[card["data"]].split.test or range(100))
        kinds = ("", "_errors", "_affinities")
        pictures = {"raw", "truth"} | {one + kind for one in card["networks"] for kind in kinds}
        drawn = {picture.stem for picture in path.parent.glob("*.png")}
        surfaces = {"neurons", *(f"{one}_merger" for one in card["networks"])}
        assert pictures <= drawn <= pictures | surfaces
        for network in card["networks"].values():
            assert {"seed", "steps", "threshold", "scores"} <= set(network)
        for picture in path.parent.glob("*.png"):
            assert picture.stat().st_size <= 300_000, picture


def test_a_build_changes_nothing_that_is_committed(tmp_path):
    """In a clone whose pages and PDFs are up to date, whatever the notebooks have made."""
    before = {path: path.read_bytes() for path in (ROOT / "report").rglob("*") if path.is_file()}
    build.build(tmp_path)
    after = {path: path.read_bytes() for path in (ROOT / "report").rglob("*") if path.is_file()}
    assert {path: one for path, one in after.items() if "__pycache__" not in path.parts} == {
        path: one for path, one in before.items() if "__pycache__" not in path.parts
    }


def test_the_package_stays_small():
    lines = [len(path.read_text().splitlines()) for path in (ROOT / "report").glob("*.py")]
    assert sum(lines) <= 2250
