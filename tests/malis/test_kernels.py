import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.page import gpu_text
from malis import tensors
from malis.tensors import triton_kernels

ROOT = Path(__file__).parents[2]
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which runs on Linux"
)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_CUDA])


@NEEDS_TRITON
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_kernels_equal_operations(device):
    """On the CPU they run in Triton's interpreter."""
    environment = os.environ | {
        "KERNEL_DEVICE": device,
        "TRITON_INTERPRET": str(int(device == "cpu")),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command.append("tests/malis/kernel_cases.py")
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^\d+ passed in ", run.stdout, re.MULTILINE), run.stdout  # and none skipped


TYPES = {"constexpr": ["BLOCK"], "*u8": ["marks", "apart", "live"]}
TYPES["i32"] = ["n_channels", "n_voxels", "n_edges", "first", "count", "most_hops"]
TYPES["*i64"] = ["key", "keys", "new_keys", "steps", "chosen", "owners", "ones", "others"]
TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names}


@NEEDS_TRITON
def test_kernels_compile_for_a_gpu_that_is_not_there(monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget

    from malis.kernels import climbs, edges, groups

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns where it is not set
    codes = {}
    for chapter in (climbs, edges, groups):
        own = (
            x for x in vars(chapter).values() if getattr(x, "__module__", "") == chapter.__name__
        )
        for kernel in own:
            if not isinstance(kernel, triton.JITFunction) or "BLOCK" not in kernel.arg_names:
                continue  # a function, or a part of kernels
            types = {name: TYPE_OF.get(name, "*i32") for name in kernel.arg_names}
            source = triton.compiler.ASTSource(kernel, types, constexprs={"BLOCK": 128})
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
            assert compiled.asm["cubin"]
            codes[kernel.__name__] = compiled.asm["ptx"]
    assert len(codes) == 13
    # One of them lowers keys, by the device's own minimum of signed 64-bit integers.
    atomics = {name: re.findall(r"\b(?:atom|red)\.global\S+", code) for name, code in codes.items()}
    assert [name for name, found in atomics.items() if found] == ["_pick_in_list"]
    assert all(found.endswith("relaxed.min.s64") for found in atomics["_pick_in_list"])


@pytest.fixture
def installed(monkeypatch):
    """Decides whether Triton is found."""

    def decide(there):
        monkeypatch.setattr(tensors, "_triton_is_installed", lambda: there)

    return decide


def test_kernels_are_off_unless_asked_for(monkeypatch, installed):
    installed(True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for value in (None, "", "0"):
        if value is None:
            monkeypatch.delenv("MALIS_TRITON", raising=False)
        else:
            monkeypatch.setenv("MALIS_TRITON", value)
        assert triton_kernels(torch.device("cuda")) is None
        assert triton_kernels(torch.device("cpu")) is None
    monkeypatch.setenv("MALIS_TRITON", "1")
    assert triton_kernels(torch.device("cpu")) is None


@NEEDS_TRITON
def test_kernels_are_on_for_gpus_that_ask_for_them(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("MALIS_TRITON", "1")
    assert triton_kernels(torch.device("cuda", 1)).__name__ == "malis.kernels"


def test_without_triton_operations_do_the_work_and_a_warning_says_so(monkeypatch, caplog):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("MALIS_TRITON", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tensors._triton_is_installed.cache_clear()
    try:
        for _ in range(3):
            assert triton_kernels(torch.device("cuda")) is None
    finally:
        tensors._triton_is_installed.cache_clear()
    assert caplog.messages == ["MALIS_TRITON=1, but Triton is not installed"]


def figures(seconds):
    return {
        "loss_and_gradient": {"median_s": seconds},
        "floor_all_operations_s": seconds / 4,
        "operations": 800,
        "waits": 60,
    }


@pytest.mark.parametrize("kernels", [True, False])
def test_the_page_shows_what_a_gpu_measured(kernels):
    case = {"shape": [1, 64, 64, 64], "floor_inputs_and_gradient_s": 1e-5, **figures(0.012)}
    if kernels:
        case["kernels"] = {**figures(0.006), "times_as_fast_as_operations": 2.0}
    text = gpu_text({"environment": {"device": "H0", "date": "2026-01-02T"}, "cases": [case]})
    assert "H0, 2026-01-02" in text
    assert "| 64 x 64 x 64 | operations | 12 | 3 | 0.01 | 800 | 60 |" in text
    assert ("| 64 x 64 x 64 | kernels | 6 | 1.5 | 0.01 | 800 | 60 |" in text) == kernels
