import sys

import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models.cost import count_flops, measure_cost, measure_cost_apart
from mamba_unet.ops import use_backend

UPDATE = 7  # of a state at a position, by hand: delta A, exp, times h; plus (delta u) B; times C, added to the others


def test_the_papers_network_costs_its_products_and_its_state_updates():
    # 4.45 G multiply-adds and 279 M updates at 224 x 224, by hand from the layers' shapes; 64 x 64 is (2/7)^2 of it
    expected = (2 * 4.45 + UPDATE * 0.279) * (64 / 224) ** 2
    cost = measure_cost("mamba_unet", (64, 64))
    assert cost.gflops == pytest.approx(expected, rel=0.01)
    assert cost.parameters == 19_118_592 and cost.latency_ms > 0


def test_the_count_does_not_depend_on_who_computes_the_scan():
    counts = []
    for backend in ("auto", "torch"):
        with use_backend(backend):
            counts.append(measure_cost("mamba_unet", (32, 64)).gflops)
    assert counts[0] == counts[1]


def test_a_volume_of_one_unshrunk_slice_costs_what_the_image_does_and_two_walks_more():
    """By hand for the nano network at 32 x 32: blocks of 64 and 16 pixels twice and of 4 pixels once, of 32, 64 and 128
    inner channels and 4 states; a walk also projects x to dt, B and C, and dt to the channels."""

    def extra(pixels: int, blocks: int, inner: int, rank: int) -> int:
        projections = 2 * inner * (rank + 2 * 4) + 2 * inner * rank
        return 2 * pixels * blocks * (UPDATE * inner * 4 + projections)

    walks = extra(64, 2, 32, 1) + extra(16, 2, 64, 2) + extra(4, 1, 128, 4)
    filters = 2 * (27 - 9) * (64 * 2 * 32 + 16 * 2 * 64 + 4 * 128)  # 3 x 3 x 3 in place of 3 x 3
    counts = []
    flat = {"stem": "patch", "patch_size": (1, 64, 64)}
    for name, size, options in (("mamba_unet", (32, 32), {}), ("mamba_unet_3d", (1, 32, 32), flat)):
        counts.append(count_flops(build_model(name, size="nano", **options).eval(), torch.zeros(1, 1, *size)))
    assert counts[1] - counts[0] == walks + filters


def test_the_control_costs_less_by_its_scan():
    assert measure_cost("mamba_unet_no_scan", (32, 32)).gflops < measure_cost("mamba_unet", (32, 32)).gflops
    assert torch.is_grad_enabled()


def test_attention_counts_on_a_cpu():
    """TransUNet at 224 x 224, one channel: 57.0 GFLOP without its attention. By hand, 12 layers of two products of
    196 x 196 x 768 multiply-adds, two operations each: 1.4 GFLOP more."""
    attention = 12 * 2 * 2 * 196 * 196 * 768 / 1e9
    assert measure_cost("transunet").gflops == pytest.approx(57.0 + attention, abs=0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_peak_memory_is_the_networks_own():
    """Not what the process held that started the measuring one, which `getrusage` passes on."""
    held = torch.ones(2**28)  # 1 GiB
    small, large = (
        measure_cost_apart("mamba_unet_no_scan", size, 1, "cpu").peak_mib for size in ((32, 32), (224, 224))
    )
    assert held[0] == 1
    assert 0 <= small < 0.5 * large < 200
