import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mamba_unet import MambaUNet, build_model


@pytest.fixture
def nano():
    torch.manual_seed(0)
    return build_model("mamba_unet", size="nano")


def test_default_network_has_the_papers_parameters_and_the_public_names(conformance_dir):
    expected = json.loads((conformance_dir / "mamba_unet_keys.json").read_text())
    model = MambaUNet(in_channels=3)
    assert sum(p.numel() for p in model.parameters()) == expected["total_parameters"] == 19_121_664
    assert {f"mamba_unet.{k}": list(v.shape) for k, v in model.state_dict().items()} == expected["keys"]


def test_logits_match_the_conformance_numbers(conformance_dir, fill_by_name):
    expected = np.load(conformance_dir / "mamba_unet.npz")
    model = MambaUNet(in_channels=3).eval()
    fill_by_name(model, prefix="mamba_unet.")
    with torch.no_grad():
        logits = model(torch.from_numpy(expected["input"]))
    torch.testing.assert_close(logits, torch.from_numpy(expected["logits"]), rtol=0, atol=1e-4)


def test_padding_repeats_the_edge_and_is_cropped_away(nano):
    nano.eval()
    small = torch.randn(1, 1, 30, 20)
    padded = torch.nn.functional.pad(small, (0, 12, 0, 2), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(nano(small), nano(padded)[..., :30, :20])


def test_a_volume_is_padded_along_each_axis_by_what_its_strides_need():
    torch.manual_seed(0)
    model = build_model("mamba_unet_3d", size="nano", spacing=(8, 1.5, 1.5), patch_size=(10, 64, 64)).eval()
    assert model.stride == (2, 16, 16)
    small = torch.randn(1, 1, 5, 30, 20)
    padded = torch.nn.functional.pad(small, (0, 12, 0, 2, 0, 1), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(model(small), model(padded)[..., :5, :30, :20])


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(("spacing", "depth"), [((8, 1.5, 1.5), 4), ((1, 1, 1), 16)])
def test_depth_shrinks_as_the_spacing_has_it(stem, spacing, depth):
    model = build_model("mamba_unet_3d", size="nano", stem=stem, spacing=spacing).eval()
    assert model.stride == (depth, 16, 16)
    x = torch.randn(1, 1, 16, 32, 32)
    first = model.patch_embed(x) if stem == "patch" else model.stem(x)[0]
    with torch.no_grad():
        deepest, _ = model.encode(first)
    assert deepest.shape == (1, 16 // depth, 2, 2, 64)


def test_a_slice_of_a_volume_is_told_from_the_next_one():
    torch.manual_seed(0)
    model = build_model("mamba_unet_3d", size="nano").eval()
    x = torch.zeros(1, 1, 8, 32, 32)
    x[..., 4, 10, 10] = 1
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x))).abs().sum(1)[0]
    assert change[4, 10, 10] > 2 * max(change[5, 10, 10], change[3, 10, 10])


def test_gradient_checkpointing_changes_memory_not_numbers():
    x = torch.randn(1, 1, 32, 32)
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        model = build_model("mamba_unet", size="nano", use_checkpoint=use_checkpoint)
        torch.manual_seed(1)  # stochastic depth draws the same
        model(x).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_autocast_survives_inputs_scaled_by_100(nano):
    optimizer = torch.optim.SGD(nano.parameters(), lr=0.01, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(nano(100 * torch.randn(1, 1, 32, 32)), torch.ones(1, 32, 32, dtype=torch.long))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()


@pytest.mark.parametrize("scan", ["selective", "identity", "dwconv"])
def test_a_convolutional_stem_changes_nothing_between_the_first_stage_and_the_last(scan):
    patch, fine = (MambaUNet(depths=(1, 1), dims=(8, 16), scan=scan, stem=stem) for stem in ("patch", "conv"))
    outer = ("patch_embed.", "up.", "output.", "stem.", "head.")
    shapes = [{k: v.shape for k, v in m.state_dict().items() if not k.startswith(outer)} for m in (patch, fine)]
    assert shapes[0] == shapes[1]
    assert any(name.startswith("stem.") for name in fine.state_dict())


def test_a_convolutional_stem_tells_neighbouring_pixels_apart():
    torch.manual_seed(0)
    model = build_model("mamba_unet_fine", size="nano").eval()
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10, 10] = 1
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x))).abs().sum(1)[0]
    assert change[10, 10] > 2 * change[20:24, 20:24].max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_stem_of_early_checkpoints_runs_in_any_precision(dtype):
    torch.manual_seed(0)
    model = build_model("mamba_unet_fine", size="nano", stem="conv_group").eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected, logits = model(x), model.to(dtype)(x.to(dtype))
    assert logits.dtype == dtype and (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depths": (1, 1), "dims": (8, 16, 32)}, "same length"),
        ({"depths": (1, 1), "dims": (8, 20)}, "twice the one before"),
        ({"stem": "cnv"}, "expected patch, conv, conv_group"),
        ({"scan_from": 4}, "scan_from is a stage from 0 to 3, got 4"),
        ({"scan_from": 1.5}, "scan_from is a stage from 0 to 3, got 1.5"),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"spacing": (8, 1, 1)}, "spacing and patch_size shape a network for volumes"),
        ({"spatial_dims": 3, "spacing": (1, 1)}, "spacing must be three positive numbers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        MambaUNet(**sizes)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 32, 32), (2, 1, 0, 32)])
def test_an_image_of_another_shape_is_refused_by_what_was_expected(nano, shape):
    with pytest.raises(ValueError, match=r"expected images \(B, 1, H, W\)"):
        nano(torch.zeros(shape))


def test_an_image_is_no_volume():
    model = build_model("mamba_unet_3d", size="nano")
    with pytest.raises(ValueError, match=r"expected volumes \(B, 1, D, H, W\) with D, H, W at least 1"):
        model(torch.zeros(1, 1, 32, 32))
