"""Weights of a network for images in the same network for volumes."""

import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint, slices_preprocessing
from mamba_unet.models.loading import load_pretrained
from mamba_unet.models.registry import resolve_config


def scattered(model: torch.nn.Module) -> torch.nn.Module:
    """With values in which no layer is at its start: norms that scale, walks that differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(model: torch.nn.Module, name: str, folder) -> None:
    config = {"in_channels": 1, "num_classes": 4, **resolve_config("nano", {}, name)}
    preprocessing = slices_preprocessing([{"method": "minmax"}], (32, 32), None)
    metadata = CheckpointMetadata(name, config, ["background", "1", "2", "3"], preprocessing)
    save_checkpoint(folder / "best.safetensors", model, metadata)


@pytest.mark.parametrize(("stem", "name"), [("patch", "mamba_unet"), ("conv", "mamba_unet_fine")])
def test_a_volume_of_one_slice_gets_the_logits_of_the_image(tmp_path, stem, name):
    torch.manual_seed(0)
    plane = scattered(build_model(name, size="nano"))
    saved(plane, name, tmp_path)
    volume = build_model("mamba_unet_3d", size="nano", stem=stem, patch_size=(1, 64, 64)).eval()
    report = load_pretrained(volume, tmp_path)
    assert set(report.loaded) == set(volume.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched)
    assert "layers.0.blocks.0.self_attention.conv2d.weight" in report.inflated
    assert "layers.0.blocks.0.ln_1.weight" not in report.inflated
    assert f"{len(report.inflated)} of them inflated from images to volumes" in str(report)
    x = torch.randn(2, 1, 40, 32)
    with torch.no_grad():
        torch.testing.assert_close(volume(x[:, :, None])[:, :, 0], plane(x), rtol=1e-4, atol=1e-4)


def test_layers_that_shrink_depth_give_equal_slices_what_the_image_gets(tmp_path):
    """Embedding, merging and expanding over two or more slices, each alike: the mean of what goes in is the image."""
    torch.manual_seed(0)
    plane = scattered(build_model("mamba_unet", size="nano"))
    saved(plane, "mamba_unet", tmp_path)
    volume = build_model("mamba_unet_3d", size="nano", stem="patch", spacing=(1, 1, 1)).eval()
    report = load_pretrained(volume, tmp_path)
    assert not (report.missing or report.unexpected or report.mismatched)

    image = torch.randn(1, 1, 8, 8)
    slices = image.unsqueeze(2).expand(-1, -1, 4, -1, -1)
    pairs = [(volume.patch_embed, plane.patch_embed, slices, image)]
    for part in ("layers.0.downsample", "layers_up.0", "up"):
        channels = plane.get_submodule(part).norm.normalized_shape[0] // (4 if "downsample" in part else 1)
        channels *= 2 if part == "layers_up.0" else 1
        map_ = torch.randn(1, 4, 4, channels)
        pairs.append(
            (volume.get_submodule(part), plane.get_submodule(part), map_[:, None].expand(-1, 2, -1, -1, -1), map_)
        )
    for of_volume, of_image, given, given_image in pairs:
        expected = of_image(given_image).unsqueeze(1)
        result = of_volume(given)
        torch.testing.assert_close(result, expected.expand_as(result), rtol=1e-4, atol=1e-5)


def test_walks_along_depth_start_from_those_along_rows_with_nothing_to_read_out(tmp_path):
    torch.manual_seed(0)
    plane = scattered(build_model("mamba_unet", size="nano"))
    saved(plane, "mamba_unet", tmp_path)
    volume = build_model("mamba_unet_3d", size="nano", stem="patch")
    load_pretrained(volume, tmp_path)
    ours, theirs = (m.layers[1].blocks[0].self_attention for m in (volume, plane))
    inner, states = theirs.conv2d.in_channels, theirs.d_state
    assert torch.equal(ours.A_logs.view(6, inner, states), theirs.A_logs.view(4, inner, states)[[0, 1, 0, 2, 3, 2]])
    assert torch.equal(ours.dt_projs_bias, theirs.dt_projs_bias[[0, 1, 0, 2, 3, 2]])
    assert torch.equal(ours.x_proj_weight[:, :-states], theirs.x_proj_weight[[0, 1, 0, 2, 3, 2], :-states])
    assert torch.equal(ours.x_proj_weight[[0, 1, 3, 4]], theirs.x_proj_weight)
    assert not ours.x_proj_weight[[2, 5], -states:].any() and not ours.Ds.view(6, inner)[[2, 5]].any()


def test_vmamba_fills_a_network_for_volumes_and_mirrored_its_decoder(tmp_path):
    torch.manual_seed(0)
    plane = build_model("mamba_unet", in_channels=3, size="nano")
    kept = ("patch_embed.", "layers.", "norm.")
    weights = {name: torch.randn_like(v) for name, v in plane.state_dict().items() if name.startswith(kept)}
    torch.save({"model": weights | {"head.weight": torch.randn(10, 64)}}, tmp_path / "vmamba.pth")
    volume = build_model("mamba_unet_3d", size="nano", stem="patch", spacing=(5, 1, 1))
    report = load_pretrained(volume, tmp_path / "vmamba.pth")
    assert report.kind.startswith("VMamba ImageNet") and report.unexpected == ("head.weight",) and not report.mismatched
    assert {name for name in volume.state_dict() if ".blocks." in name} <= set(report.loaded)
    expected = weights["patch_embed.proj.weight"].sum(1, keepdim=True).unsqueeze(2)  # one channel; 1 x 4 x 4
    torch.testing.assert_close(volume.patch_embed.proj.weight, expected)
