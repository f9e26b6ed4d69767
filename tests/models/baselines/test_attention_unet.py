import subprocess
import sys

from mamba_unet.models.baselines.attention_unet import AttentionUNet


def test_it_is_of_the_size_of_the_unet_beside_it():
    assert sum(p.numel() for p in AttentionUNet().parameters()) == 1_987_468


def test_monai_is_imported_only_where_the_network_is_built_and_brings_no_torchvision():
    code = """
import sys
import mamba_unet.models
assert "monai" not in sys.modules
mamba_unet.models.build_model("attention_unet", size="nano")
assert "monai" in sys.modules and "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
