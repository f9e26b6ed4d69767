import json
import re

import numpy as np
import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models.baselines.swin_unet import SwinUNet
from mamba_unet.models.baselines.transunet import TransUNet
from mamba_unet.models.loading import PretrainedError, load_pretrained


def swin_like(model: torch.nn.Module, colours: int = 3) -> dict[str, torch.Tensor]:
    """Swin-T's names: encoder, derived buffers and a classifier, and a deeper stage than Swin-Unet has."""
    weights = {
        name: torch.randn_like(value)
        for name, value in model.state_dict().items()
        if name.startswith(("patch_embed.", "layers.", "norm."))
    }
    weights["patch_embed.proj.weight"] = torch.randn(16, colours, 4, 4)
    weights["layers.1.blocks.2.norm1.weight"] = torch.randn(32)
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    return weights | {"head.weight": torch.randn(10, 32), "head.bias": torch.randn(10)}


def google_like(hidden: int, heads: int, depth: int, mlp: int, width: int, units: tuple[int, ...], grid: int):
    """The names and shapes of R50+ViT-B_16.npz, smaller."""
    shapes = {"conv_root/kernel": (7, 7, 3, width), "gn_root/scale": (1, 1, 1, width), "gn_root/bias": (1, 1, 1, width)}
    channels = width
    for block, (count, out) in enumerate(zip(units, (4 * width, 8 * width, 16 * width), strict=True), start=1):
        for unit in range(1, count + 1):
            prefix, middle = f"block{block}/unit{unit}", out // 4
            kernels = [("1", 1, channels, middle), ("2", 3, middle, middle), ("3", 1, middle, out)]
            kernels += [("_proj", 1, channels, out)] if unit == 1 else []
            for part, size, into, to in kernels:
                shapes[f"{prefix}/conv{part}/kernel"] = (size, size, into, to)
                shapes[f"{prefix}/gn{part}/scale"] = shapes[f"{prefix}/gn{part}/bias"] = (1, 1, 1, to)
            channels = out
    shapes |= {"embedding/kernel": (1, 1, channels, hidden), "embedding/bias": (hidden,)}
    shapes |= {"cls": (1, 1, hidden), "Transformer/posembed_input/pos_embedding": (1, grid * grid + 1, hidden)}
    head = hidden // heads
    for layer in range(depth):
        prefix = f"Transformer/encoderblock_{layer}"
        for norm in ("LayerNorm_0", "LayerNorm_2", "../encoder_norm"):
            shapes[f"{prefix}/{norm}/scale"] = shapes[f"{prefix}/{norm}/bias"] = (hidden,)
        for part in ("query", "key", "value"):
            shapes[f"{prefix}/MultiHeadDotProductAttention_1/{part}/kernel"] = (hidden, heads, head)
            shapes[f"{prefix}/MultiHeadDotProductAttention_1/{part}/bias"] = (heads, head)
        shapes[f"{prefix}/MultiHeadDotProductAttention_1/out/kernel"] = (heads, head, hidden)
        shapes[f"{prefix}/MultiHeadDotProductAttention_1/out/bias"] = (hidden,)
        for dense, into, to in (("Dense_0", hidden, mlp), ("Dense_1", mlp, hidden)):
            shapes[f"{prefix}/MlpBlock_3/{dense}/kernel"] = (into, to)
            shapes[f"{prefix}/MlpBlock_3/{dense}/bias"] = (to,)
    shapes = {re.sub(r"encoderblock_\d+/\.\./", "", name): shape for name, shape in shapes.items()}
    shapes |= {"head/kernel": (hidden, 10), "head/bias": (10,)}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_swin_fills_the_encoder_and_mirrored_the_decoder(tmp_path):
    model = build_model("swin_unet", size="nano")
    weights = swin_like(model)
    torch.save({"model": weights}, tmp_path / "swin.pth")
    report = load_pretrained(model, tmp_path / "swin.pth")

    state = model.state_dict()
    for name in ("attn.qkv.weight", "attn.relative_position_bias_table", "mlp.fc1.bias"):
        assert torch.equal(state[f"layers.0.blocks.1.{name}"], weights[f"layers.0.blocks.1.{name}"])
        assert torch.equal(state[f"layers_up.1.blocks.1.{name}"], weights[f"layers.0.blocks.1.{name}"])
    torch.testing.assert_close(
        state["patch_embed.proj.weight"], weights["patch_embed.proj.weight"].sum(1, keepdim=True)
    )
    assert report.kind.startswith("Swin Transformer ImageNet")
    assert set(report.unexpected) == {"head.weight", "head.bias", "layers.1.blocks.2.norm1.weight"}
    assert not report.mismatched and "layers_up.0.expand.weight" in report.missing


def test_position_biases_are_interpolated_to_another_window(tmp_path):
    model = build_model("swin_unet", in_channels=3, size="nano", window_size=4)
    offsets = torch.arange(-2.0, 3).repeat(5)  # window 3: bias = horizontal offset
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    weights = swin_like(build_model("swin_unet", in_channels=3, size="nano")) | {table: offsets[:, None].repeat(1, 2)}
    torch.save(weights, tmp_path / "swin.pth")
    report = load_pretrained(model, tmp_path / "swin.pth")
    biases = model.state_dict()[table].view(7, 7, 2)
    assert not report.mismatched
    assert torch.equal(biases[0], biases[6]) and (biases.diff(dim=1) > 0).all()
    torch.testing.assert_close(biases[:, 3], torch.zeros(7, 2), rtol=0, atol=1e-6)


def test_the_public_swin_unet_and_transunet_names_find_their_places(conformance_dir, tmp_path):
    for network, name in ((SwinUNet, "swin_unet"), (TransUNet, "transunet")):
        keys = json.loads((conformance_dir / f"{name}_keys.json").read_text())["keys"]
        torch.save({k: torch.zeros(()).expand(shape) for k, shape in keys.items()}, tmp_path / "released.pth")
        report = load_pretrained(network(in_channels=1, num_classes=9), tmp_path / "released.pth")
        heads = {"output.weight", "segmentation_head.0.weight", "segmentation_head.0.bias"}
        assert not report.unexpected and {entry[0] for entry in report.mismatched} == set(report.missing) <= heads


def test_the_unet_of_wsl4mis_loads(tmp_path):
    torch.save({"state_dict": build_model("unet", size="nano").state_dict()}, tmp_path / "unet.pth")
    report = load_pretrained(build_model("unet", size="nano"), tmp_path / "unet.pth")
    assert report.kind.startswith("U-Net") and not (report.missing or report.unexpected or report.mismatched)


@pytest.fixture
def google(tmp_path):
    arrays = google_like(hidden=32, heads=2, depth=2, mlp=64, width=32, units=(1, 2, 1), grid=4)
    np.savez(tmp_path / "R50+ViT-B_16.npz", **arrays)
    return tmp_path / "R50+ViT-B_16.npz", arrays


def test_googles_arrays_fill_all_of_transunet_but_its_decoder(google):
    path, arrays = google
    model = build_model("transunet", size="nano", image_size=64).eval()
    report = load_pretrained(model, path)
    assert all(name.startswith(("decoder.", "segmentation_head.")) for name in report.missing)
    assert set(report.unexpected) == {"cls", "head/kernel", "head/bias"} and not report.mismatched

    x = torch.randn(1, 5, 32)
    block = model.transformer.encoder.layer[1]
    prefix = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    a = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        query = torch.einsum("blc,chd->blhd", x, a[f"{prefix}/query/kernel"]) + a[f"{prefix}/query/bias"]
        torch.testing.assert_close(block.attn.query(x).view_as(query), query)
        out = torch.einsum("blhd,hdc->blc", x.view(1, 5, 2, 16), a[f"{prefix}/out/kernel"]) + a[f"{prefix}/out/bias"]
        torch.testing.assert_close(block.attn.out(x), out)
    state = model.state_dict()
    hybrid = "transformer.embeddings.hybrid_model.body.block2.unit1"
    assert torch.equal(state[f"{hybrid}.conv2.weight"][3, 5], a["block2/unit1/conv2/kernel"][..., 5, 3])
    assert torch.equal(state[f"{hybrid}.gn_proj.bias"], a["block2/unit1/gn_proj/bias"].flatten())
    positions = a["Transformer/posembed_input/pos_embedding"]
    assert torch.equal(state["transformer.embeddings.position_embeddings"], positions[:, 1:])


def test_positions_are_resized_to_another_image_size(google):
    model = build_model("transunet", size="nano", image_size=96)
    report = load_pretrained(model, google[0])
    assert "transformer.embeddings.position_embeddings" in report.loaded
    assert model.transformer.embeddings.position_embeddings.shape == (1, 36, 32)


@pytest.mark.parametrize(
    ("network", "names", "message"),
    [
        (
            "mamba_unet",
            ["layers.0.blocks.0.attn.relative_position_bias_table"],
            "Swin Transformer ImageNet, .*SwinUNet",
        ),
        (
            "swin_unet",
            ["layers.0.blocks.0.self_attention.A_logs"],
            r"for SwinUNet: .*VMamba .*MambaUNet; expected Swin-U",
        ),
        (
            "transunet",
            ["encoder.in_conv.conv_conv.0.weight"],
            "for TransUNet: it looks like U-Net .*for UNet; expected",
        ),
        (
            "transunet",
            ["Transformer/encoderblock_0/LayerNorm_0/bias"],
            "another Vision Transformer; expected TransUNet",
        ),
        (
            "attention_unet",
            ["layer1.0.conv1.weight"],
            "for AttentionUNet: .*ResNet; expected what `mamba-unet train` wrote",
        ),
    ],
)
def test_a_wrong_combination_names_both(tmp_path, network, names, message):
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "other.pth")
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(build_model(network, size="nano"), tmp_path / "other.pth")


@pytest.mark.parametrize("content", ["text", "truncated", "pickled"])
def test_a_bad_npz_is_refused(google, content):
    path, _ = google
    if content == "text":
        path.write_text("<html>404</html>")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(PretrainedError, match=r"ViT-B_16\.npz cannot be read as arrays"):
        load_pretrained(build_model("transunet", size="nano"), path)


def test_a_control_takes_what_it_has_of_vmamba(tmp_path):
    mamba, control = (build_model(name, size="nano") for name in ("mamba_unet", "mamba_unet_no_scan"))
    encoder = {k: v for k, v in mamba.state_dict().items() if k.startswith(("patch_embed.", "layers.", "norm."))}
    torch.save(encoder, tmp_path / "vmamba.pth")
    report = load_pretrained(control, tmp_path / "vmamba.pth")
    assert len(report.unexpected) == 3 * 5 and all("self_attention" in name for name in report.unexpected)
    assert torch.equal(control.layers[1].blocks[0].self_attention.in_proj.weight,
                       mamba.layers[1].blocks[0].self_attention.in_proj.weight)  # fmt: skip
