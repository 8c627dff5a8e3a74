"""Training a network: patches, augmentation, the loop, checkpoints, validation.

dataset        volumes with labels, split into sections; patches of them
augmentation   mirrored, turned, bent and damaged patches
intensity      other grey values
batches        which patches make the batch of a step
loop           the training loop: where to begin
step           one step of it
settings       what it is told
description    what a checkpoint knows of its training
interruption   Ctrl-C and SIGTERM
checkpoint     files that hold networks
validation     how well a network segments what it was not trained on
distributed    several processes
"""

from malis.training.augmentation import Augmentation
from malis.training.checkpoint import Model, load_model, save_model
from malis.training.dataset import (
    LabelledVolume,
    PatchDataset,
    SectionSplit,
    load_volume,
    split_sections,
)
from malis.training.description import describe
from malis.training.loop import History, choose_device, train
from malis.training.settings import CosineDecay, Settings
from malis.training.validation import validation_scores

__all__ = [
    "Augmentation",
    "CosineDecay",
    "History",
    "LabelledVolume",
    "Model",
    "PatchDataset",
    "SectionSplit",
    "Settings",
    "choose_device",
    "describe",
    "load_model",
    "load_volume",
    "save_model",
    "split_sections",
    "train",
    "validation_scores",
]
