import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cases():
    """Folder with the synthetic reference cases."""
    return ROOT / "tests/fixtures/cremi"


@pytest.fixture(scope="session")
def expected(cases):
    return json.loads((cases / "expected.json").read_text())


@pytest.fixture(scope="session")
def real_volume():
    def find(name):
        path = Path(os.environ.get("MALIS_DATA_DIR", ROOT / "../shared/data")) / name
        if not path.exists():
            pytest.skip(f"{name} is not in MALIS_DATA_DIR or ../shared/data")
        return path

    return find
