import json

import pytest
import torch
from safetensors.torch import save_file

from mamba_unet import MambaUNet, build_model
from mamba_unet.models.checkpoint import (
    CheckpointError,
    CheckpointMetadata,
    read_metadata,
    save_checkpoint,
    slices_preprocessing,
)
from mamba_unet.models.loading import PretrainedError, load, load_pretrained, read_weights
from mamba_unet.models.registry import list_models, resolve_config


@pytest.fixture
def small():
    return build_model("mamba_unet", in_channels=1, size="nano")


def vmamba_like(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Encoder weights and a classifier under VMamba's names, every value of its own."""
    weights = {
        name: torch.randn_like(value)
        for name, value in model.state_dict().items()
        if name.startswith(("patch_embed.", "layers.", "norm."))
    }
    weights["patch_embed.proj.weight"] = torch.randn(16, 3, 4, 4)
    return weights | {"head.weight": torch.randn(10, 64), "head.bias": torch.randn(10)}


def test_vmamba_fills_the_encoder_and_mirrored_the_decoder(small, tmp_path):
    weights = vmamba_like(small)
    torch.save({"model": weights}, tmp_path / "vmamba.pth")
    report = load_pretrained(small, tmp_path / "vmamba.pth")

    state = small.state_dict()
    assert torch.equal(state["layers.1.blocks.0.ln_1.weight"], weights["layers.1.blocks.0.ln_1.weight"])
    for name in ("self_attention.A_logs", "self_attention.in_proj.weight"):
        assert torch.equal(state[f"layers_up.1.blocks.0.{name}"], weights[f"layers.1.blocks.0.{name}"])
        assert torch.equal(state[f"layers_up.2.blocks.0.{name}"], weights[f"layers.0.blocks.0.{name}"])
    assert report.kind.startswith("VMamba ImageNet")
    assert set(report.unexpected) == {"head.weight", "head.bias"}
    assert set(report.loaded) | set(report.missing) == set(state) and not set(report.loaded) & set(report.missing)
    assert "layers_up.0.expand.weight" in report.missing


def test_the_public_vmamba_tiny_names_find_their_places(conformance_dir):
    keys = json.loads((conformance_dir / "vmamba_tiny_checkpoint_keys.json").read_text())["keys"]
    from mamba_unet.models.loading import identify

    weights = {name: torch.empty(shape, device="meta") for name, shape in keys.items()}
    kind = identify(weights)
    assert kind.name.startswith("VMamba ImageNet")
    with torch.device("meta"):
        paper, deep = MambaUNet(), build_model("mamba_unet", size="tiny-d9")
    for model, blocks_left_out in ((paper, 7), (deep, 0)):
        parameters = model.state_dict()
        placed = {name: [t for t in kind.targets(name, 4) if t in parameters] for name in keys}
        unused = [name for name, targets in placed.items() if not targets]
        assert len(unused) == 2 + 13 * blocks_left_out
        filled = {target for targets in placed.values() for target in targets}
        decoder = {name for name in parameters if ".blocks." in name}
        assert decoder <= filled


def test_three_channel_filters_become_the_same_function_of_one_channel(small, tmp_path):
    weights = vmamba_like(small)
    torch.save({"model": weights}, tmp_path / "vmamba.pth")
    load_pretrained(small, tmp_path / "vmamba.pth")
    x = torch.randn(1, 1, 8, 8)
    repeated = torch.conv2d(x.repeat(1, 3, 1, 1), weights["patch_embed.proj.weight"], stride=4)
    summed = torch.conv2d(x, small.patch_embed.proj.weight, stride=4)
    torch.testing.assert_close(summed, repeated, rtol=1e-4, atol=1e-4)


def test_released_mamba_unet_weights_load_under_their_prefix(small, tmp_path):
    torch.manual_seed(1)
    other = build_model("mamba_unet", in_channels=3, num_classes=9, size="nano")
    save_file({f"mamba_unet.{k}": v for k, v in other.state_dict().items()}, tmp_path / "released.safetensors")
    report = load_pretrained(small, tmp_path / "released.safetensors")
    assert report.mismatched == (("output.weight", (9, 16, 1, 1), (4, 16, 1, 1)),)
    assert report.missing == ("output.weight",) and not report.unexpected
    assert torch.equal(small.norm.weight, other.norm.weight)


def test_plain_weights_of_a_network_without_a_scan_in_its_decoder_are_known_as_its_own(tmp_path):
    network = build_model("mamba_unet", in_channels=1, size="nano", scan_from=2)
    torch.save(network.state_dict(), tmp_path / "plain.pt")
    other = build_model("mamba_unet", in_channels=1, size="nano", scan_from=2)
    assert load_pretrained(other, tmp_path / "plain.pt").kind == "Mamba-UNet"
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_the_report_counts_what_happened(small, tmp_path):
    torch.save({"model": vmamba_like(small)}, tmp_path / "vmamba.pth")
    text = str(load_pretrained(small, tmp_path / "vmamba.pth"))
    assert "2 unexpected (head.weight, head.bias)" in text and "parameters loaded" in text


@pytest.mark.parametrize(
    ("names", "looks_like"),
    [
        (["layers.0.blocks.0.attn.relative_position_bias_table"], "Swin Transformer"),
        (["layers.0.blocks.0.op.x_proj_weight"], "VMamba ImageNet in its later form"),
        (["layer1.0.conv1.weight"], "ResNet"),
        (["backbone.layers.0.mixer.A_log"], "a Mamba language model"),
        (["something.weight"], "names are unknown, such as 'something.weight'"),
    ],
)
def test_another_networks_checkpoint_is_refused_by_what_it_looks_like(small, tmp_path, names, looks_like):
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "other.pth")
    with pytest.raises(PretrainedError, match=looks_like):
        load_pretrained(small, tmp_path / "other.pth")


def test_a_checkpoint_that_fits_nowhere_is_refused(small, tmp_path):
    torch.save({"layers.0.blocks.0.self_attention.A_logs": torch.zeros(1, 1)}, tmp_path / "tiny.pth")
    with pytest.raises(PretrainedError, match=r"only 0 of .* parameters have this network's shape"):
        load_pretrained(small, tmp_path / "tiny.pth")


class Command:
    """What a malicious file would hold: unpickling it calls a function."""

    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["code", "truncated", "text", "no tensors"])
def test_a_bad_file_is_refused_and_nothing_in_it_runs(tmp_path, capsys, content):
    path = tmp_path / "bad.pth"
    if content == "code":
        torch.save({"model": Command()}, path)
    elif content == "truncated":
        torch.save({"model": {"a": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:500])
    elif content == "text":
        path.write_text("<html>404</html>")
    else:
        torch.save({"epoch": 3}, path)
    with pytest.raises(PretrainedError, match=r"bad\.pth"):
        read_weights(path)
    assert "never" not in capsys.readouterr().out


def test_a_yacs_configuration_beside_the_weights_is_read_as_inert_data(tmp_path, monkeypatch):
    """VMamba's and Swin's training code save their configuration object with the weights."""
    import sys
    import types

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(MODEL=CfgNode(NAME="vssm"))
    config.frozen = True
    torch.save({"model": {"norm.weight": torch.ones(3)}, "config": config}, tmp_path / "a.pth")
    monkeypatch.undo()
    assert torch.equal(read_weights(tmp_path / "a.pth")["norm.weight"], torch.ones(3))


def metadata_of(name: str, config: dict) -> CheckpointMetadata:
    names = ["background", *map(str, range(1, config["num_classes"]))]
    preprocessing = slices_preprocessing([{"method": "minmax"}], (32, 32), None)
    return CheckpointMetadata(name, config, names, preprocessing, lineage=["a" * 64])


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("channels", [(3, 1), (3, 4), (1, 3)])
def test_every_network_starts_from_its_own_run_with_other_classes_and_channels(tmp_path, name, channels):
    torch.manual_seed(0)
    before, after = channels
    old = build_model(name, in_channels=before, num_classes=3, size="nano")
    config = {"in_channels": before, "num_classes": 3, **resolve_config("nano", {}, name)}
    save_checkpoint(tmp_path / "run" / "best.safetensors", old, metadata_of(name, config))
    new = build_model(name, in_channels=after, num_classes=5, size="nano")
    report = load_pretrained(new, tmp_path / "run")
    assert not report.unexpected and report.lineage == ("a" * 64,) and report.kind.startswith(name)
    head = {target for target, theirs, ours in report.mismatched}
    assert {theirs[0] for _, theirs, _ in report.mismatched} == {3}, "the class head alone keeps its own values"
    assert set(report.missing) == head
    convolution = (torch.nn.Conv2d, torch.nn.Conv3d)
    first = next(module for module in new.modules() if isinstance(module, convolution)).weight
    theirs = next(module for module in old.modules() if isinstance(module, convolution)).weight
    if theirs.shape != first.shape:  # TransUNet shows one channel three times
        assert f"made for {before} channels" in report.adapted and "made for" in str(report)
        expected = (theirs.sum(1, keepdim=True) / after).expand_as(first)
        torch.testing.assert_close(first, expected)


def test_a_run_of_another_network_is_refused_by_its_name(small, tmp_path):
    unet = build_model("unet", size="nano")
    save_checkpoint(tmp_path / "best.safetensors", unet, metadata_of("unet", {"in_channels": 1, "num_classes": 4}))
    with pytest.raises(PretrainedError, match="not a checkpoint for MambaUNet: it is a unet; expected Mamba-UNet or"):
        load_pretrained(small, tmp_path)


def test_a_hub_id_is_fetched(small, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "model.safetensors"
    save_checkpoint(path, small, metadata_of("mamba_unet", {"in_channels": 1, "num_classes": 4}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *words: str(path))
    monkeypatch.chdir(tmp_path)
    assert not load_pretrained(build_model("mamba_unet", size="nano"), "hf:someone/heart").missing


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.", "_orig_mod.", "model._orig_mod.", "module.model."])
def test_what_training_code_puts_before_the_names_is_dropped(small, tmp_path, prefix):
    torch.save(
        {"state_dict": {prefix + k: v for k, v in small.state_dict().items()} | {"loss.weight": torch.ones(3)}},
        tmp_path / "lightning.ckpt",
    )
    report = load_pretrained(build_model("mamba_unet", size="nano"), tmp_path / "lightning.ckpt")
    assert not report.missing and report.unexpected == ("loss.weight",)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(small, tmp_path, bad):
    config = {"in_channels": 1, "num_classes": 4, "depths": (1, 1, 1), "dims": (16, 32, 64), "d_state": 4}
    small.norm.weight.data[0] = bad
    save_checkpoint(tmp_path / "best.safetensors", small, metadata_of("mamba_unet", config))
    for refused in (load, lambda folder: load_pretrained(build_model("mamba_unet", size="nano"), folder)):
        with pytest.raises(CheckpointError, match=r"NaN or infinite weights \(norm\.weight\)"):
            refused(tmp_path)


def test_load_gives_the_network_with_its_metadata(small, tmp_path):
    config = {"in_channels": 1, "num_classes": 4, "depths": [1, 1, 1], "dims": [16, 32, 64], "d_state": 4}
    save_checkpoint(tmp_path / "best.safetensors", small, metadata_of("mamba_unet", config))
    network = load(tmp_path)
    assert not network.training and network.metadata.class_names[0] == "background"
    save_checkpoint(tmp_path / "best.safetensors", small, metadata_of("mamba_unet", config | {"dims": [8, 16, 32]}))
    with pytest.raises(CheckpointError, match="does not hold the network that its header describes"):
        load(tmp_path)


def test_another_kind_of_convolutional_stem_is_refused_with_the_remedy(tmp_path):
    config = {"in_channels": 1, "num_classes": 4}  # as earlier versions wrote it; the weights tell the stem
    old = build_model("mamba_unet_fine", **config, size="nano", stem="conv_group")
    save_checkpoint(tmp_path / "best.safetensors", old, metadata_of("mamba_unet_fine", config))
    assert read_metadata(tmp_path / "best.safetensors").config["stem"] == "conv_group"
    with pytest.raises(PretrainedError, match=r"--model\.arguments '\{stem: conv_group\}'"):
        load_pretrained(build_model("mamba_unet_fine", size="nano"), tmp_path)
    report = load_pretrained(build_model("mamba_unet_fine", size="nano", stem="conv_group"), tmp_path)
    assert not report.missing


def test_vmamba_fills_the_stages_of_a_network_with_a_stem_of_its_own(small, tmp_path):
    torch.save(vmamba_like(small), tmp_path / "vmamba.pth")
    fine = build_model("mamba_unet_fine", size="nano")
    report = load_pretrained(fine, tmp_path / "vmamba.pth")
    stages = {name for name in small.state_dict() if name in fine.state_dict() and ".blocks." in name}
    assert stages <= set(report.loaded)
    assert any(name.startswith("stem.") for name in report.missing)
    assert {"patch_embed.proj.weight", "patch_embed.norm.weight"} <= set(report.unexpected)


def test_a_checkpoint_of_which_hardly_anything_fits_is_refused(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    other = build_model("mamba_unet", depths=(1, 1, 1), dims=(24, 48, 96), d_state=6)
    with pytest.raises(PretrainedError, match=r"only \d+ of \d+ parameters have this network's shape"):
        load_pretrained(other, tmp_path / "small.safetensors")
