import io
import shutil
import socket
import subprocess
import threading
import zlib

import numpy as np
import pytest
from matplotlib import pyplot as plt

from cremi_eval import Volume
from cremi_eval.io import CremiFile
from malis.scale import viewer as view
from malis.scale.ome_zarr import create_ome_zarr
from malis.scale.volumes import open_volume

neuroglancer = pytest.importorskip("neuroglancer", reason="needs the extra scale")
zarr = pytest.importorskip("zarr", reason="needs the extra scale")

SHAPE, RESOLUTION, OFFSET = (8, 32, 48), (40.0, 4.0, 4.0), (400.0, 800.0, 1200.0)


@pytest.fixture(autouse=True)
def stopped():
    """Every test has a server of its own."""
    yield
    neuroglancer.stop()


def halves(dtype, left, right):
    """A volume of two halves, along x."""
    values = np.full(SHAPE, left, dtype)
    values[..., SHAPE[2] // 2 :] = right
    return values


def write(path, raw=None, labels=None, resolution=RESOLUTION, offset=OFFSET):
    with CremiFile(path, "w") as file:
        if raw is not None:
            file.write_raw(Volume(raw, resolution, offset))
        if labels is not None:
            file.write_neuron_ids(Volume(labels, resolution, offset))
    return path


@pytest.fixture
def raw(tmp_path):
    return open_volume(write(tmp_path / "raw.hdf", halves(np.uint8, 20, 220)))


@pytest.fixture
def labels(tmp_path):
    return open_volume(write(tmp_path / "labels.hdf", labels=halves(np.uint64, 7, 2**63 + 5)))


@pytest.fixture
def affinities(tmp_path):
    path = tmp_path / "affinities.zarr"
    place = {"resolution": RESOLUTION, "offset": OFFSET}
    create_ome_zarr(path, (3, *SHAPE), np.float32, block=SHAPE, **place)
    zarr.open_array(path / "0", mode="r+")[:] = 0.75
    return open_volume(path)


def served(viewer, name):
    """Return layer and voxels as the page gets them."""
    layer = next(layer for layer in viewer.state.layers if layer.name == name)
    token = layer.source[0].url.rpartition(".")[2]
    return layer, viewer.volume_manager.volumes[token]


def place_of(layer):
    """Return size and corner of the voxels in metres, along the last three axes."""
    transform = layer.source[0].transform
    scales = np.array(transform.output_dimensions.scales[-3:])
    return scales, np.asarray(transform.matrix)[-3:, -1] * scales


def test_every_volume_lies_in_its_place(raw, labels, affinities):
    viewer = view.open_viewer(raw, labels, labels, affinities)
    names = ["raw", "affinities", "truth", "segmentation"]
    assert [layer.name for layer in viewer.state.layers] == names
    for name in names:
        size, corner = place_of(served(viewer, name)[0])
        np.testing.assert_allclose(size, np.array(RESOLUTION) * 1e-9)
        np.testing.assert_allclose(corner, np.array(OFFSET) * 1e-9)
    dimensions = viewer.state.dimensions
    assert dimensions.names == ("x", "y", "z")
    np.testing.assert_allclose(dimensions.scales, np.array(RESOLUTION[::-1]) * 1e-9)
    middle = np.array(OFFSET) / RESOLUTION + np.array(SHAPE) // 2 + 0.5
    np.testing.assert_allclose(viewer.state.position, middle[::-1])
    assert served(viewer, "segmentation")[1].volume_type == "segmentation"
    assert served(viewer, "affinities")[1].volume_type == "image"
    groups = [group["layers"] for group in viewer.state.layout.to_json()["children"]]
    assert groups == [["raw", name] for name in names[1:]]


@pytest.mark.parametrize("limit", [1 << 29, 0])
def test_voxels_are_served_from_memory_or_file(raw, labels, affinities, monkeypatch, limit):
    monkeypatch.setattr(view, "IN_MEMORY", limit)
    viewer = view.open_viewer(raw, labels, affinities=affinities)
    for name, source in (("raw", raw), ("segmentation", labels), ("affinities", affinities)):
        volume = served(viewer, name)[1]
        end = np.array(volume.shape)
        data, _ = volume.get_encoded_subvolume("npz", 0 * end, end, ",".join("1" * len(end)))
        np.testing.assert_array_equal(np.load(io.BytesIO(zlib.decompress(data))), source[:])
    volume = served(viewer, "segmentation")[1]
    if limit:
        assert volume.get_object_mesh(7)
    else:
        with pytest.raises(neuroglancer.local_volume.MeshesNotSupportedForVolume):
            volume.get_object_mesh(7)


def test_signed_labels_are_shown(raw, tmp_path, monkeypatch):
    path = tmp_path / "signed.zarr"
    place = {"resolution": RESOLUTION, "offset": OFFSET}
    create_ome_zarr(path, SHAPE, np.int64, block=SHAPE, fill_value=3, **place)
    for limit in (1 << 29, 0):
        monkeypatch.setattr(view, "IN_MEMORY", limit)
        volume = served(view.open_viewer(raw, open_volume(path)), "segmentation")[1]
        assert volume.info()["dataType"] == "uint64"


def test_listens_on_this_machine_only(raw, labels):
    viewer = view.open_viewer(raw, labels)
    assert str(viewer).startswith("http://127.0.0.1:")
    listening = neuroglancer.server.global_server.http_server._sockets.values()
    assert {place.getsockname()[0] for place in listening} == {"127.0.0.1"}


def test_an_address_that_is_taken_is_one_line(raw, labels):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}: "):
            view.open_viewer(raw, labels, port=port)


HALVES = halves(np.uint64, 1, 2)


@pytest.mark.parametrize(
    ("labels", "place", "words"),
    [
        (HALVES, {"resolution": (40.0, 8.0, 8.0)}, r"raw has voxels of \(40.0, 4.0, 4.0\) nm, but"),
        (HALVES[:, :16], {}, r"shape \(8, 32, 48\), but .*b.hdf.* has \(8, 16, 48\)"),
        (HALVES, {"offset": (400, 800, 1300)}, "does not lie inside of"),
    ],
)
def test_labels_on_another_grid_are_refused(raw, tmp_path, labels, place, words):
    path = write(tmp_path / "b.hdf", labels=labels, **place)
    with pytest.raises(ValueError, match=words):
        view.open_viewer(raw, open_volume(path))


def test_volumes_of_another_kind_are_refused(raw, affinities):
    with pytest.raises(ValueError, match=r"must have the axes \(z, y, x\) of labels"):
        view.open_viewer(raw, affinities)
    with pytest.raises(ValueError, match=r"must have the axes \(c, z, y, x\) of affinities"):
        view.open_viewer(raw, affinities=raw)


def test_smaller_labels_lie_inside_of_padded_raw(raw, tmp_path):
    inner = halves(np.uint64, 1, 2)[2:6, 8:24, 8:24]
    corner = np.array(OFFSET) + np.array([2, 8, 8]) * RESOLUTION
    viewer = view.open_viewer(
        raw, open_volume(write(tmp_path / "b.hdf", labels=inner, offset=corner))
    )
    np.testing.assert_allclose(place_of(served(viewer, "segmentation")[0])[1], corner * 1e-9)
    middle = (corner / RESOLUTION + np.array([2, 8, 8]) + 0.5)[::-1]
    np.testing.assert_allclose(viewer.state.position, middle)


class TestInBrowser:
    @pytest.fixture
    def browser(self, tmp_path):
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("needs Chromium")
        started = []

        def start(viewer):
            command = [chromium, "--headless=new", "--no-sandbox", "--use-angle=swiftshader",
                       "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
                       "--remote-debugging-port=0", "--window-size=600,400",
                       f"--user-data-dir={tmp_path / 'profile'}", str(viewer)]  # fmt: skip
            null = subprocess.DEVNULL
            started.append(subprocess.Popen(command, stdout=null, stderr=null))

        yield start
        for process in started:
            process.terminate()
            process.wait()

    def screenshot(self, viewer):
        """Let the page draw itself; fails if it has not after a minute."""
        found = []
        thread = threading.Thread(
            target=lambda: found.append(viewer.screenshot(size=[300, 200])), daemon=True
        )
        thread.start()
        thread.join(60)
        assert found, "the page drew nothing"
        return plt.imread(io.BytesIO(found[0].screenshot.image))[..., :3]

    def centre(self, viewer, place):
        """Return the colour at a place in nm, as a person sees it there."""
        with viewer.txn() as state:
            state.layout = "xy"
            state.show_axis_lines = False
            state.position = (np.array(place) / RESOLUTION)[::-1]
        return self.screenshot(viewer)[100, 150]

    def test_voxels_are_seen_where_they_are(self, browser, raw, labels, affinities):
        viewer = view.open_viewer(raw, labels, affinities=affinities)
        browser(viewer)
        inside = np.array(OFFSET) + np.array([160, 64, 30])
        right = inside + np.array([0, 0, 120])

        self.show(viewer, "raw")
        dark, bright = self.centre(viewer, inside), self.centre(viewer, right)
        assert dark.max() < 0.2 and bright.min() > 0.7
        assert np.ptp(dark) == np.ptp(bright) == 0
        background = self.centre(viewer, inside - OFFSET)
        assert background.min() > 0.3 and background.max() < 0.7

        self.show(viewer, "raw", "segmentation")
        one, other = self.centre(viewer, inside), self.centre(viewer, right)
        assert np.ptp(one) > 0.05 and np.ptp(other) > 0.05
        self.show(viewer, "affinities")
        np.testing.assert_allclose(self.centre(viewer, inside), 0.75, atol=0.01)

    def show(self, viewer, *names):
        with viewer.txn() as state:
            for layer in state.layers:
                layer.visible = layer.name in names
