"""The scores of the CREMI challenge, and what helps to understand them."""

from .border import (
    create_and_write_masked_neuron_ids,
    create_border_mask,
    create_border_mask_2d,
)
from .clefts import Clefts
from .contingency import ContingencyTable, contingency_table
from .neuron_ids import NeuronIds
from .objects import ObjectError, worst_merges, worst_splits
from .partners import PartnerStatistics, SynapticPartners, synaptic_partners_fscore
from .rand import adapted_rand, adapted_rand_of_table
from .scores import Scores, cremi_score, mean_of_sections, scores_of_table
from .voi import voi, voi_by_object, voi_of_table

__all__ = [
    "Clefts",
    "ContingencyTable",
    "NeuronIds",
    "ObjectError",
    "PartnerStatistics",
    "Scores",
    "SynapticPartners",
    "adapted_rand",
    "adapted_rand_of_table",
    "contingency_table",
    "create_and_write_masked_neuron_ids",
    "create_border_mask",
    "create_border_mask_2d",
    "cremi_score",
    "mean_of_sections",
    "scores_of_table",
    "synaptic_partners_fscore",
    "voi",
    "voi_by_object",
    "voi_of_table",
    "worst_merges",
    "worst_splits",
]
