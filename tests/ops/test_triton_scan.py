"""The Triton kernels where there is no GPU: run by Triton's interpreter, and compiled for GPUs that are not at hand."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
HERE = Path(__file__).parent


def run(*command: str, **environment: str) -> None:
    finished = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the tests run in this very process")
@pytest.mark.parametrize("operation", ["cross_scan", "selective_scan"])
def test_kernels_pass_their_tests_under_the_interpreter(operation):
    """In a process of its own: Triton decides when it is imported, and much imports it, whether it interprets."""
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / operation / "test_triton.py"), TRITON_INTERPRET="1")


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mamba_unet.ops import triton_scan

half = {"u_ptr", "dt_ptr", "B_ptr", "C_ptr", "grad_dt_ptr"}
constants = dict(PATH=1, PATHS=3, WAYS=2, ADJOINT=False, SOFTPLUS=True, TILE=4, N=16, BLOCK_N=16, BLOCK_D=32, BLOCK=128)
kernels = [value for name, value in vars(triton_scan).items() if name.endswith("_kernel")]
assert len(kernels) == 5
for target in (GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
    for kernel in kernels:
        names = kernel.arg_names
        signature = {
            name: "constexpr" if name in constants else "i32" if not name.endswith("_ptr")
            else "*bf16" if name in half else "*fp32" for name in names
        }
        constexprs = {(names.index(name),): value for name, value in constants.items() if name in names}
        triton.compile(ASTSource(kernel, signature, constexprs), target=target, options={"num_warps": 1})
"""


@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """The interpreter accepts programs that the compiler refuses; the compiler needs no GPU."""
    run("-c", COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
