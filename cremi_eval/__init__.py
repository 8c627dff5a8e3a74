"""CREMI files and scores: cremi_python for Python 3, on NumPy, SciPy and h5py alone."""

import sys

from .annotations import Annotations
from .evaluation import Clefts, NeuronIds, SynapticPartners
from .io import CremiFile
from .volume import Volume

__all__ = ["Annotations", "Clefts", "CremiFile", "NeuronIds", "SynapticPartners", "Volume"]

# Modules of cremi_python, as scripts name them: `from cremi_eval.Volume import Volume`. Files of
# these names would collide with ours where upper and lower case are the same.
_CREMI_PYTHON = {
    "Annotations": "annotations",
    "Volume": "volume",
    "evaluation.Clefts": "evaluation.clefts",
    "evaluation.NeuronIds": "evaluation.neuron_ids",
    "evaluation.SynapticPartners": "evaluation.partners",
    "evaluation.border_mask": "evaluation.border",
    "evaluation.synaptic_partners": "evaluation.partners",
    "io.CremiFile": "io",
}
for _old, _new in _CREMI_PYTHON.items():
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]
