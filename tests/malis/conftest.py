from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fib25():
    """Labels of a FIB-25 crop, read from the volumes that are not part of the repository."""
    path = ROOT / "../shared/data/fib25_train.hdf"
    if not path.exists():
        pytest.skip("needs fib25_train.hdf, which is not part of the repository")
    with h5py.File(path) as file:
        return file["volumes/labels/neuron_ids"][:64, :64, :64]


def noisy_affinities(truth, seed=0):
    """Affinities that follow the truth but for noise; all of them different in float32."""
    rng = np.random.default_rng(seed)
    affinities = np.clip(0.2 + 0.6 * truth + 0.25 * rng.normal(size=truth.shape), 0, 1)
    ranks = affinities.ravel().argsort().argsort().reshape(truth.shape)
    return ((ranks + 1) / (truth.size + 1)).astype(np.float32)


@pytest.fixture
def make_affinities():
    return noisy_affinities


@pytest.fixture(scope="module", params=["higra", "numba"])
def each_host_backend(request):
    """Run a module's tests with either of what "auto" may be for small samples on a CPU."""
    if request.param == "numba":
        pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("malis._checks.has_numba", lambda: request.param == "numba")
        yield
