import multiprocessing
import os
import subprocess
import sys
import sysconfig
import threading

import pytest
import torch

from mamba_unet.ops import cross_scan, native

if native.absence():
    pytest.skip(native.absence(), allow_module_level=True)


def image(batch=2, shape=(9, 7), channels=40, states=16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    walks = 2 * len(shape)

    def randn(*sizes):
        return torch.randn(*sizes, generator=generator)

    return [
        randn(batch, *shape, channels),
        randn(batch, *shape, walks, 3),
        randn(batch, *shape, walks, states),
        randn(batch, *shape, walks, states),
        -torch.rand(walks, channels, states, generator=generator),
        randn(channels),
        randn(walks, channels),
        randn(walks, channels, 3),
    ]


def outputs_and_gradients(inputs: list[torch.Tensor], backend: str = "cpu") -> list[torch.Tensor]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = cross_scan(*inputs, backend=backend)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("number", [2, 3, 8, 16])
@pytest.mark.parametrize("shape", [(9, 7), (3, 7, 4)])
def test_any_number_of_threads_gives_the_same_numbers(threads, number, batch, shape, assert_agree):
    inputs = image(batch, shape)
    threads(1)
    alone = outputs_and_gradients(inputs)
    threads(number)
    together = outputs_and_gradients(inputs)
    for result, truth in zip(together, alone, strict=True):
        assert_agree(result, truth, f"{number} threads")
    for again, first in zip(outputs_and_gradients(inputs), together, strict=True):
        assert torch.equal(again, first)  # whichever thread took which task


def test_works_without_torchs_pool(threads, monkeypatch):
    inputs = image()
    threads(3)
    expected = outputs_and_gradients(inputs)
    monkeypatch.setattr(native, "_torch_parallel_for", lambda: None)  # as before torch 2.10
    for result, truth in zip(outputs_and_gradients(inputs), expected, strict=True):
        assert torch.equal(result, truth)


def test_a_torch_whose_library_lies_elsewhere_leaves_us_our_own_threads(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    assert native._torch_parallel_for.__wrapped__() is None


def _in_child(queue, inputs) -> None:
    queue.put([x.numpy() for x in outputs_and_gradients(inputs)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_works_in_a_forked_child_of_a_process_that_used_threads(threads):
    inputs = image()
    threads(2)
    expected = outputs_and_gradients(inputs)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    # square().sum() would enter torch's own broken pool if it were larger; the scan is what is on trial
    child = context.Process(target=_in_child, args=(queue, inputs))
    child.start()
    results = queue.get(timeout=30)
    child.join(30)
    assert child.exitcode == 0
    for result, truth in zip(results, expected, strict=True):
        assert torch.equal(torch.from_numpy(result), truth)


def test_two_python_threads_can_scan_at_once():
    inputs = image()
    expected = outputs_and_gradients(inputs)
    results = [None, None]

    def scan(i):
        results[i] = outputs_and_gradients(inputs)

    workers = [threading.Thread(target=scan, args=(i,)) for i in range(2)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_library_follows_torchs_reading_of_the_processor(capability):
    """Every variant that this processor can run gives the same answer; ATEN_CPU_CAPABILITY is torch's own switch."""
    known = ["default", "avx2", "avx512"]
    best = torch.backends.cpu.get_cpu_capability().lower()
    if known.index(capability) > (known.index(best) if best in known else 0):
        pytest.skip(f"this processor has no {capability}")
    code = """
import torch
from mamba_unet.ops import native, cross_scan
torch.manual_seed(0)
inputs = [torch.randn(1, 5, 9, 24), torch.randn(1, 5, 9, 4, 3), torch.randn(1, 5, 9, 4, 17),
          torch.randn(1, 5, 9, 4, 17), -torch.rand(4, 24, 17), torch.randn(24), torch.randn(4, 24),
          torch.randn(4, 24, 3)]
def scan(backend, dtype):
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    y = cross_scan(*leaves, backend=backend)
    return [y, *torch.autograd.grad(y.sum(), leaves)]
pairs = zip(scan("cpu", torch.float32), scan("reference", torch.float64))
error = max((result - truth).abs().max() / truth.abs().max() for result, truth in pairs)
print(native._load()._name, torch.backends.cpu.get_cpu_capability(), float(error))
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    library, in_force, error = finished.stdout.split()[-3:]
    variant = {"AVX512": "avx512", "AVX2": "avx2"}.get(in_force, "base")
    assert f"libscan_{variant}" in library
    assert float(error) < 5e-6


def test_a_library_that_cannot_be_loaded_is_a_reason_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert "not built" in native._load.__wrapped__()
    for variant in ("base", "avx2", "avx512"):
        suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".dll"
        (tmp_path / f"libscan_{variant}{suffix}").write_bytes(b"not a library")
    assert "cannot be loaded" in native._load.__wrapped__()
