import os
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def isbi_labels():
    folders = [Path(f) for f in [os.environ.get("MALIS_DATA_DIR")] if f] + [ROOT / "../shared/data"]
    for folder in folders:
        path = folder / "isbi2012_train.hdf"
        if path.exists():
            with h5py.File(path, "r") as file:
                return file["volumes/labels/neuron_ids"][...].astype(np.uint64)
    pytest.skip("isbi2012_train.hdf is in neither MALIS_DATA_DIR nor ../shared/data")
