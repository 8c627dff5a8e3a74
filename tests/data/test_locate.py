import pytest

from data import locate
from data.locate import find_volume


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An environment's folder, a repository's folder, and a working directory of their own."""
    for name in ("environment", "repository", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MALIS_DATA_DIR", str(tmp_path / "environment"))
    monkeypatch.setattr(locate, "FOLDER", tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_path_wins_over_the_environment_and_that_over_the_repository(places):
    for name in ("here", "environment", "repository"):
        (places / name / "volume.hdf").touch()
    assert find_volume("volume.hdf").resolve() == places / "here" / "volume.hdf"
    (places / "here" / "volume.hdf").unlink()
    assert find_volume("volume.hdf") == places / "environment" / "volume.hdf"
    (places / "environment" / "volume.hdf").unlink()
    assert find_volume("volume.hdf") == places / "repository" / "volume.hdf"


def test_explicit_paths(places, monkeypatch):
    (places / "volume.hdf").touch()
    assert find_volume(places / "volume.hdf") == places / "volume.hdf"
    assert find_volume("../volume.hdf").resolve() == places / "volume.hdf"
    monkeypatch.setenv("HOME", str(places))
    assert find_volume("~/volume.hdf") == places / "volume.hdf"


def test_cremi_samples_go_by_their_letter(places):
    (places / "repository" / "sample_B_padded_20160501.hdf").touch()
    assert find_volume("B").name == "sample_B_padded_20160501.hdf"
    (places / "repository" / "sample_B_20160501.hdf").touch()
    assert find_volume("B").name == "sample_B_20160501.hdf"


def test_synthetic_is_made_unless_the_environment_has_one(places, monkeypatch):
    path = places / "repository" / "synthetic.hdf"
    monkeypatch.setattr(locate, "sample_path", lambda: path)
    assert find_volume("synthetic") == path
    (places / "environment" / "synthetic.hdf").touch()
    assert find_volume("synthetic") == places / "environment" / "synthetic.hdf"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("A", "python -m data.download A fetches it"),
        ("C+", "python -m data.download C+ fetches it"),
        ("sample_B_20160501.hdf", "python -m data.download B fetches it"),
        ("sample_B_padded_20160501.hdf", "python -m data.download B --padded fetches it"),
        ("mine.hdf", "set MALIS_DATA_DIR"),
    ],
)
def test_missing_volume_says_where_it_was_looked_for_and_what_to_do(places, name, advice):
    with pytest.raises(FileNotFoundError) as error:
        find_volume(name)
    message = str(error.value)
    assert advice in message
    for folder in ("here", "environment", "repository"):
        assert str(places / folder) in message


def test_a_folder_is_no_volume(places):
    with pytest.raises(FileNotFoundError):
        find_volume(places)


def test_environment_may_be_unset(places, monkeypatch):
    monkeypatch.delenv("MALIS_DATA_DIR")
    (places / "repository" / "volume.hdf").touch()
    assert find_volume("volume.hdf") == places / "repository" / "volume.hdf"
