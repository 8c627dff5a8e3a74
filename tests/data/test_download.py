import hashlib
import io
import resource
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
import tifffile
from as_on_windows import keep_open_files

from data import download
from data.download import DownloadError, fetch, file_name, main

NAME = "sample_A_20160501.hdf"


def cremi_bytes(tmp_path, *, labels=True, seed=0):
    path = tmp_path / f"made_{labels}_{seed}.hdf"
    noise = np.random.default_rng(seed).integers(0, 256, (3, 200, 200), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = noise
        if labels:
            file["volumes/labels/neuron_ids"] = noise.astype(np.uint64)
    content = path.read_bytes()
    path.unlink()
    return content


class Server(ThreadingHTTPServer):
    """Serves `files`, breaks off after `break_after` bytes, and remembers the ranges asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.break_after, self.resumes = {}, [], None, True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        content = server.files.get(self.path.removeprefix("/data/"))
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.resumes else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content) if server.break_after is None else start + server.break_after
        self.wfile.write(content[start:stop])
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "CHUNK", 4096)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_are_those_of_cremi_org():
    assert file_name("A") == "sample_A_20160501.hdf"
    assert file_name("B", padded=True) == "sample_B_padded_20160501.hdf"
    assert file_name("C+") == "sample_C+_20160601.hdf"
    assert file_name("A+", padded=True) == "sample_A+_padded_20160601.hdf"
    with pytest.raises(ValueError, match="sample must be one of A, B, C"):
        file_name("D")


def test_file_and_checksum_are_stored(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    folder = tmp_path / "new" / "folder"
    path = fetch("A", folder, base_url=server.url)
    assert path == folder / NAME
    assert path.read_bytes() == content
    assert names(folder) == [NAME, f"{NAME}.sha256"]
    digest, name = (folder / f"{NAME}.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(content).hexdigest(), NAME)


def test_no_open_file_is_renamed_where_there_is_no_lock(server, tmp_path, monkeypatch):
    """As on Windows, which has no fcntl and refuses to replace or delete an open file."""
    content = server.files[NAME] = cremi_bytes(tmp_path)
    keep_open_files(monkeypatch)
    monkeypatch.setattr(download, "fcntl", None)
    (tmp_path / f"{NAME}.part").write_bytes(bytes(len(content) + 1))  # of another file
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == content
    server.files[file_name("B")] = b"no volume"
    with pytest.raises(DownloadError, match="is not an HDF5 file"):
        fetch("B", tmp_path, base_url=server.url)
    assert names(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_test_samples_need_no_labels(server, tmp_path):
    server.files[file_name("B+", padded=True)] = cremi_bytes(tmp_path, labels=False)
    assert fetch("B+", tmp_path, padded=True, base_url=server.url).exists()


def test_existing_file_is_not_asked_for_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(cremi_bytes(tmp_path))
    before = (tmp_path / NAME).stat()
    assert fetch("A", tmp_path, base_url=server.url) == tmp_path / NAME
    assert (tmp_path / NAME).stat() == before
    assert server.ranges == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"my notes", "exists already but is not an HDF5 file"), (None, "has no dataset volumes/lab")],
)
def test_existing_file_of_another_kind_is_kept(server, tmp_path, content, message):
    content = content or cremi_bytes(tmp_path, labels=False)
    (tmp_path / NAME).write_bytes(content)
    server.files[NAME] = cremi_bytes(tmp_path)
    with pytest.raises(DownloadError, match=message):
        fetch("A", tmp_path, base_url=server.url)
    assert (tmp_path / NAME).read_bytes() == content


def test_broken_transfer_is_resumed(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    server.break_after = 50_000
    with pytest.raises(DownloadError, match=r"broke off.*run the same command again"):
        fetch("A", tmp_path, base_url=server.url)
    assert names(tmp_path) == [f"{NAME}.part"]
    kept = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < kept <= 50_000
    server.break_after = None
    path = fetch("A", tmp_path, base_url=server.url)
    assert path.read_bytes() == content
    assert server.ranges == [None, f"bytes={kept}-"]
    assert names(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_server_without_ranges_starts_over(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(b"left over" * 100)
    server.resumes = False
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == content


def test_complete_part_is_not_fetched_again(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(content)
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == content
    assert server.ranges == [f"bytes={len(content)}-"]


def test_part_longer_than_the_file_starts_over(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(content + b"more")
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == content


def test_interruption_keeps_what_came(server, tmp_path, monkeypatch, capsys):
    server.files[NAME] = cremi_bytes(tmp_path)
    real = download.tqdm

    class Interrupting(real):
        def update(self, n=1):
            super().update(n)
            raise KeyboardInterrupt

    monkeypatch.setattr(download, "tqdm", Interrupting)
    assert main(["A", "--directory", str(tmp_path), "--url", server.url]) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err
    assert names(tmp_path) == [f"{NAME}.part"]
    monkeypatch.setattr(download, "tqdm", real)
    assert main(["A", "--directory", str(tmp_path), "--url", server.url]) == 0
    assert (tmp_path / NAME).read_bytes() == server.files[NAME]


def test_wrong_checksum_is_refused(server, tmp_path):
    server.files[NAME] = cremi_bytes(tmp_path)
    (tmp_path / f"{NAME}.sha256").write_text(f"{'0' * 64}  {NAME}\n")
    with pytest.raises(DownloadError, match="does not have the checksum"):
        fetch("A", tmp_path, base_url=server.url)
    assert names(tmp_path) == [f"{NAME}.sha256"]
    assert (tmp_path / f"{NAME}.sha256").read_text().startswith("000")


def test_recorded_checksum_is_checked_by_a_later_download(server, tmp_path):
    server.files[NAME] = cremi_bytes(tmp_path)
    fetch("A", tmp_path, base_url=server.url).unlink()
    assert fetch("A", tmp_path, base_url=server.url).exists()
    (tmp_path / NAME).unlink()
    server.files[NAME] = cremi_bytes(tmp_path, seed=1)
    with pytest.raises(DownloadError, match="does not have the checksum"):
        fetch("A", tmp_path, base_url=server.url)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>moved</html>" * 100, "is not an HDF5 file"),
        ("cut", "is a truncated HDF5 file"),
        ("unlabelled", "has no dataset volumes/labels/neuron_ids"),
    ],
)
def test_what_is_no_sample_gets_no_name(server, tmp_path, content, message):
    whole = cremi_bytes(tmp_path, labels=content != "unlabelled")
    server.files[NAME] = {"cut": whole[:-1000], "unlabelled": whole}.get(content, content)
    with pytest.raises(DownloadError, match=f"what the server sent {message}"):
        fetch("A", tmp_path, base_url=server.url)
    assert names(tmp_path) == []


def test_full_disk_is_reported_and_resumed(server, tmp_path):
    server.files[NAME] = cremi_bytes(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # stands in for a full disk
    try:
        with pytest.raises(DownloadError, match=r"cannot write to .*: File too large"):
            fetch("A", tmp_path, base_url=server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [f"{NAME}.part"]
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == server.files[NAME]


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path):
    content = server.files[NAME] = cremi_bytes(tmp_path)
    with (
        download._alone(tmp_path / f"{NAME}.part"),
        pytest.raises(DownloadError, match=r"part is being written by another download"),
    ):
        fetch("A", tmp_path, base_url=server.url)
    assert names(tmp_path) == []
    assert fetch("A", tmp_path, base_url=server.url).read_bytes() == content


def test_missing_file_and_dead_server_are_told_apart(server, tmp_path, capsys):
    server.files[NAME] = cremi_bytes(tmp_path)
    options = ["--directory", str(tmp_path)]
    assert main(["B", "A", *options, "--url", server.url]) == 1
    output = capsys.readouterr()
    assert "no such file (404)" in output.err
    assert str(tmp_path / NAME) in output.out  # the other one was fetched all the same
    assert main(["A", *options, "--url", server.url]) == 0
    assert "not downloaded again" in capsys.readouterr().out


def test_offline_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    closed = Server()
    closed.server_close()
    assert main(["A", "--directory", str(tmp_path), "--url", closed.url]) == 1
    error = capsys.readouterr().err
    assert "cannot reach the server (offline?)" in error
    assert error.count("\n") == 1
    assert names(tmp_path) == []


def test_silent_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    silent = Server()  # listens, and never answers
    with pytest.raises(DownloadError, match=r"no answer for 0\.2 s"):
        fetch("A", tmp_path, base_url=silent.url)
    silent.server_close()


def test_unknown_sample_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["D"])
    assert stop.value.code == 2
    assert "invalid choice: 'D'" in capsys.readouterr().err


class TestSnemi3d:
    @pytest.fixture
    def archive(self, server, tmp_path, monkeypatch):
        """A small archive like that of the challenge, on the server."""
        rng = np.random.default_rng(0)
        stacks = {
            "image/train-input.tif": rng.integers(0, 256, (4, 40, 48), dtype=np.uint8),
            "seg/train-labels.tif": rng.integers(0, 900, (4, 40, 48), dtype=np.uint16),
            "image/test-input.tif": rng.integers(0, 256, (5, 40, 48), dtype=np.uint8),
        }
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as packed:
            for name, stack in stacks.items():
                picture = io.BytesIO()
                tifffile.imwrite(picture, stack)
                packed.writestr(name, picture.getvalue())
        server.files["snemi.zip"] = content.getvalue()
        checksum = hashlib.md5(content.getvalue()).hexdigest()
        monkeypatch.setattr(download, "SNEMI3D_MD5", checksum)
        return stacks

    def test_stacks_become_cremi_files(self, archive, server, tmp_path, capsys):
        folder = tmp_path / "data"
        command = ["snemi3d", "--directory", str(folder), "--url", server.url]
        assert main(command) == 0
        with h5py.File(folder / "snemi3d_ac4.hdf") as file:
            raw, labels = file["volumes/raw"], file["volumes/labels/neuron_ids"]
            np.testing.assert_array_equal(raw, archive["image/train-input.tif"])
            np.testing.assert_array_equal(labels, archive["seg/train-labels.tif"])
            assert raw.attrs["resolution"].tolist() == [30, 6, 6] and labels.dtype == np.uint64
        with h5py.File(folder / "snemi3d_ac3.hdf") as file:
            np.testing.assert_array_equal(file["volumes/raw"], archive["image/test-input.tif"])
            assert "volumes/labels" not in file
        asked = len(server.ranges)
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().out.count("is there already") == 2
        assert len(server.ranges) == asked

    def test_a_transfer_that_breaks_off_goes_on(self, archive, server, tmp_path):
        server.break_after = 8192
        with pytest.raises(DownloadError, match="run the same command again"):
            download.fetch_snemi3d(tmp_path / "data", base_url=server.url)
        assert names(tmp_path / "data") == ["snemi.zip.part"]
        server.break_after = None
        download.fetch_snemi3d(tmp_path / "data", base_url=server.url)
        assert server.ranges[-1] == "bytes=8192-"

    def test_another_archive_is_refused(self, archive, server, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "SNEMI3D_MD5", "0" * 32)
        with pytest.raises(DownloadError, match="is not the published archive"):
            download.fetch_snemi3d(tmp_path / "data", base_url=server.url)
        assert not (tmp_path / "data/snemi3d_ac4.hdf").exists()

    def test_what_is_no_archive(self, archive, server, tmp_path):
        server.files["snemi.zip"] = b"<html>moved</html>"
        with pytest.raises(DownloadError, match="is not a zip archive"):
            download.fetch_snemi3d(tmp_path / "data", base_url=server.url)
        assert names(tmp_path / "data") == []
