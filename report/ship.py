"""Put a trained network where readers find it: ``python -m report.ship synthetic unet-both 0``.

Copies the model of a finished run of `report.experiments` to ``data/models/<data>.model`` (weights
in float16) and its card, with split, steps, seed and scores, to ``data/models/<data>.json``. With
``--fold`` the number is that of a fold of a cross-validation.
"""

import argparse
import json
import shutil

from malis.training.checkpoint import load_model
from report.configurations import DATA, METHODS, file_name
from report.experiments import WORK
from report.record import ROOT

MODELS = ROOT / "data" / "models"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--fold", action="store_true", help="the seed is the number of a fold")
    options = parser.parse_args()
    work = WORK / "folds" if options.fold else WORK
    source = work / f"{file_name(options.data, options.method, options.seed)}.model"
    card = load_model(source).card
    MODELS.mkdir(exist_ok=True)
    shutil.copyfile(source, MODELS / f"{options.data}.model")
    (MODELS / f"{options.data}.json").write_text(json.dumps(card, indent=1) + "\n")
    print(f"{MODELS / options.data}.model")


if __name__ == "__main__":
    main()
