"""A synthetic sample that looks like serial-section electron microscopy of the fly brain.

>>> from data.synthetic import make_sample
>>> sample = make_sample((2, 64, 64), seed=1)
>>> sample.raw.shape, sample.raw.dtype, sample.neuron_ids.dtype
((2, 64, 64), dtype('uint8'), dtype('uint64'))

The chapters, in the order in which a sample is made: `fields` (smooth randomness), `tubes`
(neurites that push each other apart), `synapses`, `organelles` and `ink` (what swims in the
cytoplasm), `drawing` (stain), `microscope` (light, noise, damage), `sample` (the whole), `storage`
(CREMI files).
"""

from data.synthetic.sample import SyntheticSample, make_sample
from data.synthetic.storage import sample_path, write_sample

__all__ = ["SyntheticSample", "make_sample", "sample_path", "write_sample"]
