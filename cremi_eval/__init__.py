"""CREMI files and scores: cremi_python for Python 3, on NumPy, SciPy and h5py alone."""

from .annotations import Annotations
from .evaluation import Clefts, NeuronIds, SynapticPartners
from .io import CremiFile
from .volume import Volume

__all__ = ["Annotations", "Clefts", "CremiFile", "NeuronIds", "SynapticPartners", "Volume"]
