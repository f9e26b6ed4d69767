"""The compiled CPU kernel (`scan_kernel.c`): which library to load, its job record, and the threads that run it.

The library is plain C behind ctypes and links neither Python nor torch, so one binary serves all their versions. It is
compiled once per instruction set; torch's own reading of the processor picks the one to load.
"""

import ctypes
import functools
import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

_POOL_OWNER = os.getpid()  # torch's threads do not survive a fork; a child must not wait for them
_LIBRARIES = {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}  # best first; others: base


Paths = c_int64 * 3  # a number for each path, see the kernel's head


class Strides(ctypes.Structure):
    _fields_ = [(name, c_int64) for name in ("batch", "pixel", "direction")]

    @classmethod
    def of(cls, x: Tensor, axes: int) -> "Strides":
        """Of a tensor (B, *S, X) or (B, *S, K, X) with `axes` axes S."""
        return cls(x.stride(0), x.stride(axes), x.stride(axes + 1) if x.ndim > axes + 2 else 0)


class Job(ctypes.Structure):
    """The kernel's `Job`, field by field; tensors are set by name."""

    _fields_ = [
        *((name, c_int64) for name in ("next_task", "batch", "length", "channels", "states", "directions", "paths")),
        *((name, Paths) for name in ("extent", "inner")),
        *((name, c_int64) for name in ("rank", "groups", "parts", "softplus")),
        *((name, POINTER(c_float)) for name in ("u", "dt", "B", "C")),
        *((name, Strides) for name in ("u_at", "dt_at", "B_at", "C_at")),
        *((name, POINTER(c_float)) for name in ("A", "skip", "bias", "weight", "y", "last", "borders")),
        *(
            (name, POINTER(c_float))
            for name in ("gy", "glast", "gu", "gdt", "gB", "gC", "gA", "gbias", "gskip", "gweight")
        ),
    ]

    def point(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self, name, ctypes.cast(tensor.data_ptr(), POINTER(c_float)))


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    capability = torch.backends.cpu.get_cpu_capability()
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".dll"
    for variant in _LIBRARIES.get(capability, ("base",)):
        path = Path(__file__).with_name(f"libscan_{variant}{suffix}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                return f"{path.name} cannot be loaded: {error}"
            job_bytes = getattr(library, "mamba_unet_scan_job_bytes", None)
            if job_bytes is None or job_bytes() != ctypes.sizeof(Job):
                return f"{path.name} was built from another version of the sources; reinstall mamba-unet"
            return library
    return "its library was not built, for want of a C compiler; install one and reinstall mamba-unet"


def absence() -> str:
    """Why the kernel cannot run here, or an empty string."""
    library = _load()
    return library if isinstance(library, str) else ""


def lanes() -> int:
    """Channels in a block."""
    return _load().mamba_unet_scan_lanes()


def chunk() -> int:
    """Steps between two states that the forward pass keeps for the backward pass."""
    return _load().mamba_unet_scan_chunk()


@functools.cache
def _torch_parallel_for() -> "ctypes._CFuncPtr | None":
    """torch's own thread pool, which has a C name since torch 2.10; None where it is not to be had."""
    name = {"nt": "torch_cpu.dll", "posix": "libtorch_cpu.so"}[os.name]
    if not (path := Path(torch.__file__).parent / "lib" / name).exists():
        path = path.with_suffix(".dylib")
    try:
        function = getattr(ctypes.CDLL(str(path)), "torch_parallel_for", None)
    except OSError:  # packaged elsewhere, as by conda-forge
        return None
    if function is not None:
        function.argtypes = (c_int64, c_int64, c_int64, c_void_p, c_void_p)
    return function


def run(worker_name: str, job: Job) -> None:
    """Run a job on `torch.get_num_threads()` threads: on torch's pool, or where it is closed on our own."""
    worker = getattr(_load(), f"mamba_unet_scan_{worker_name}")
    worker.argtypes = (c_int64, c_int64, c_void_p)
    worker.restype = None
    threads = min(torch.get_num_threads(), job.batch * job.groups * job.parts)
    if threads <= 1:
        worker(0, 1, ctypes.byref(job))
    elif os.getpid() == _POOL_OWNER and (parallel_for := _torch_parallel_for()):
        parallel_for(0, threads, 1, ctypes.cast(worker, c_void_p), ctypes.byref(job))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: worker(0, 1, ctypes.byref(job)), range(threads)))
