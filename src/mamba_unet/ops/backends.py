"""Which implementation computes a scan, and why.

`reference` is the recurrence as the papers write it: the specification, slow, differentiable any number of times and in
forward mode, where it is what "auto" picks.
`torch` is portable: chunks of PyTorch operations on every device, O(L) in time and memory.
`cpu` is the compiled kernel. It computes in float32; float64 inputs go through `torch`, by design and without a word.
`triton` is the CUDA kernel (with TRITON_INTERPRET=1 it also takes CPU tensors, for tests).
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("reference", "torch", "cpu", "triton")

_standard = False  # set by `standard_operators`
_in_force = "auto"  # a plain global, not a ContextVar: torch.compile cannot trace the latter
_absences: dict[tuple[str, str], str] = {}  # (backend, device type) -> why it cannot run there, "" if it can
_warned = False


class BackendStatus(NamedTuple):
    name: str
    available: bool
    reason: str


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every scan inside the block with one backend: `with use_backend("torch"): model(x)`.

    A `backend=` argument other than "auto" still wins. The choice holds for the whole process, so that it also reaches
    the threads that replay a checkpointed forward pass.

    Raises:
        ValueError: no backend has this name.
    """
    global _in_force
    _check_name(name)
    before, _in_force = _in_force, name
    try:
        yield
    finally:
        _in_force = before


@contextmanager
def standard_operators() -> Iterator[None]:
    """Trace every scan inside the block as torch's own `scan`, whatever backend was asked for.

    For `torch.export`, whose programs then run without this package. `torch.onnx.export` gets scans so by itself.
    """
    global _standard
    before, _standard = _standard, True
    try:
        yield
    finally:
        _standard = before


def wants_standard_operators() -> bool:
    """Whether what is traced now is to hold standard operators alone."""
    return _standard or (torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export())


def backend_status(device: str | torch.device = "cpu") -> list[BackendStatus]:
    """What can run on this device and why; the first row, named "auto", says what "auto" picks there."""
    device_type = torch.device(device).type
    rows = [BackendStatus("auto", True, f"picks {automatic_backend(device_type)!r}")]
    for name in BACKENDS:
        absence = _absence(name, device_type)
        rows.append(BackendStatus(name, not absence, absence or "available"))
    return rows


def automatic_backend(device_type: str) -> str:
    """The fastest backend that is available on a type of device."""
    fast = {"cpu": "cpu", "cuda": "triton"}.get(device_type, "torch")
    return "torch" if _absence(fast, device_type) else fast


def choose(requested: str, u: Tensor) -> str:
    """Name the backend for a call: the argument, else `use_backend`'s, else what suits the tensor's device.

    Raises:
        ValueError: no backend has this name, or the one asked for cannot run on u's device or in forward mode.
    """
    _check_name(requested)
    if wants_standard_operators():
        return "torch"  # whose operator then takes a form of standard operators
    name = _in_force if requested == "auto" else requested
    if forward_ad._current_level >= 0 and name != "reference":  # the others would drop the tangents without a word
        if name != "auto":
            raise ValueError(f'backend {name!r} has no forward-mode derivatives (jvp); use backend="reference"')
        return "reference"
    if name == "auto":
        name = automatic_backend(u.device.type)
        if name == "torch" and u.device.type == "cpu":
            _warn_of_slow_cpu()
    elif absence := _absence(name, u.device.type):
        raise ValueError(
            f"backend {name!r} cannot run on {u.device.type} tensors here: {absence}; "
            f'use backend="auto" or "torch", which runs everywhere'
        )
    return "torch" if name == "cpu" and u.dtype == torch.float64 else name


def require_states(kept: Tensor, expected: int) -> None:
    """Raises RuntimeError where a forward pass did not know that a backward pass would come, as under torch.vmap."""
    if kept.numel() != expected:
        raise RuntimeError(
            "a scan inside torch.vmap cannot be differentiated from outside: give the network the whole batch, or use "
            'the backend "reference"'
        )


def _check_name(name: str) -> None:
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"no backend is named {name!r}; there are 'auto', {', '.join(map(repr, BACKENDS))}")


def _absence(name: str, device_type: str) -> str:
    """Why a backend cannot run on a type of device, or an empty string. Probed once, at the first question."""
    if (name, device_type) not in _absences:
        _absences[name, device_type] = _probe(name, device_type)
    return _absences[name, device_type]


# torch.compile asks once and keeps the answer. This is what torch.compiler.assume_constant_result sets; calling
# that would import the compiler, which takes a second.
_absence._dynamo_marked_constant = True


def _probe(name: str, device_type: str) -> str:
    match name:
        case "cpu":
            if device_type != "cpu":
                return "it runs on CPU tensors"
            from mamba_unet.ops import native

            return native.absence()
        case "triton":
            interpreted = os.environ.get("TRITON_INTERPRET") == "1"
            if device_type != "cuda" and not (interpreted and device_type == "cpu"):
                return "it runs on CUDA tensors (on CPU tensors only under TRITON_INTERPRET=1)"
            if not interpreted and not torch.cuda.is_available():
                return "torch sees no CUDA device"
            try:
                import triton  # noqa: F401
            except ImportError as error:
                return f"triton cannot be imported: {error}"
    return ""


def _warn_of_slow_cpu() -> None:
    global _warned
    if not (_warned or torch.compiler.is_compiling()):
        _warned = True
        warnings.warn(
            f"scans run on the portable 'torch' backend, many times slower than 'cpu': {_absence('cpu', 'cpu')}",
            RuntimeWarning,
            stacklevel=4,
        )
