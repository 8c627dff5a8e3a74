"""The import forms of cremi_python in public programs, with cremi_eval in place of cremi."""

import subprocess
import sys
from pathlib import Path

import pytest

import cremi_eval

ROOT = Path(__file__).parents[2]
FORMS = """
from cremi_eval import Annotations, Volume
from cremi_eval.io import CremiFile
from cremi_eval.evaluation import Clefts, NeuronIds, SynapticPartners, create_border_mask
from cremi_eval.Volume import Volume
from cremi_eval.Annotations import Annotations
from cremi_eval.io.CremiFile import CremiFile
from cremi_eval.evaluation.NeuronIds import NeuronIds
from cremi_eval.evaluation.Clefts import Clefts
from cremi_eval.evaluation.SynapticPartners import SynapticPartners
from cremi_eval.evaluation.border_mask import create_border_mask, create_border_mask_2d
from cremi_eval.evaluation.border_mask import create_and_write_masked_neuron_ids
from cremi_eval.evaluation.synaptic_partners import synaptic_partners_fscore
from cremi_eval.evaluation.voi import voi
from cremi_eval.evaluation.rand import adapted_rand
import cremi_eval.io, cremi_eval.evaluation, cremi_eval.Volume, cremi_eval.Annotations
import cremi_eval.io.CremiFile, cremi_eval.evaluation.NeuronIds, cremi_eval.evaluation.voi
import cremi_eval.evaluation.rand, cremi_eval.evaluation.border_mask
""".strip().splitlines()
PUBLIC = """
import cremi_eval, inspect
from cremi_eval import evaluation
for name in ("Annotations", "Clefts", "CremiFile", "NeuronIds", "SynapticPartners", "Volume"):
    assert inspect.isclass(getattr(cremi_eval, name)), name
for name in ("Clefts", "NeuronIds", "SynapticPartners"):
    assert getattr(evaluation, name) is getattr(cremi_eval, name)
for name in ("voi", "adapted_rand", "create_border_mask", "synaptic_partners_fscore"):
    assert inspect.isfunction(getattr(evaluation, name)), name
assert cremi_eval.io.CremiFile is cremi_eval.CremiFile and inspect.ismodule(cremi_eval.io)
"""


@pytest.mark.parametrize("first", range(0, len(FORMS), 4))
def test_every_form_runs_first_and_leaves_the_public_names(first):
    order = [*FORMS[first:], *FORMS[:first]]  # each batch of forms meets a fresh interpreter once
    script = "\n".join([*order, PUBLIC])
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_names_of_files_differ_by_more_than_case():
    files = [str(path).lower() for path in Path(cremi_eval.__file__).parent.rglob("*.py")]
    assert len(files) == len(set(files))
