import dataclasses
import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai import bundle

from mamba_unet import Predictor, export_model
from mamba_unet.exporting.monai_bundle import bundle_network, write_bundle
from mamba_unet.exporting.network import Exportable
from mamba_unet.models.checkpoint import HEADER_KEY, CheckpointError, read_metadata
from mamba_unet.models.loading import load

pytestmark = pytest.mark.filterwarnings("ignore:parsing .*config_file:UserWarning")  # MONAI's note on trust


@pytest.fixture(scope="module")
def eyes(checkpoint, tmp_path_factory):
    return export_model(checkpoint, tmp_path_factory.mktemp("bundles") / "eyes", "monai-bundle").path


def configs(folder):
    return {
        "meta_file": str(folder / "configs" / "metadata.json"),
        "config_file": str(folder / "configs" / "inference.json"),
    }


def test_monai_verifies_that_the_network_takes_and_gives_what_the_metadata_says(eyes):
    bundle.verify_net_in_out("network_def", device="cpu", **configs(eyes))
    with pytest.raises(ValueError, match="output channel number"):
        bundle.verify_net_in_out(
            "network_def", device="cpu", **configs(eyes), **{"_meta_#network_data_format#outputs#pred#num_channels": 9}
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {"use_checkpoint": "$__import__('os').abort()"}},
        {"config": {"dims": ["@run", " %x"]}},
        {"config": {"arguments": {"_target_": "os.abort"}}},
        {"class_names": ["background", "$1", "cup"]},
    ],
)
def test_a_header_that_monai_would_run_is_refused_and_nothing_is_written(checkpoint, tmp_path, changed):
    metadata = read_metadata(checkpoint / "best.safetensors")
    changed = changed | ({"config": {**metadata.config, **changed["config"]}} if "config" in changed else {})
    header = json.dumps(dataclasses.asdict(dataclasses.replace(metadata, **changed)))
    network = SimpleNamespace(network=load(checkpoint))
    with pytest.raises(CheckpointError, match=r"run as a program|a word of MONAI's"):
        write_bundle(tmp_path / "bundle", network, torch.rand(1, 1, 40, 48), {HEADER_KEY: header})
    assert not (tmp_path / "bundle").exists()


def test_monai_loads_the_weights(eyes, checkpoint):
    network = bundle.load(eyes.name, bundle_dir=str(eyes.parent), workflow_type="inference", device="cpu")
    image = torch.rand(1, 1, 40, 48)
    with torch.no_grad():
        assert torch.equal(network.eval()(image), load(checkpoint)(image))


def test_monai_runs_it_with_the_files_of_predict(eyes, checkpoint, scan, tmp_path):
    out = tmp_path / "out"
    bundle.run(bundle_root=str(eyes), dataset_dir=str(scan), output_dir=str(out), device="cpu", **configs(eyes))
    label = np.asarray(nib.load(out / "eye.nii.gz").dataobj)
    assert np.array_equal(label, np.asarray(Predictor(checkpoint, "cpu")(scan).to_nibabel().dataobj))
    (tmp_path / "broken.nii").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"predict_all") as error:
        bundle.run(
            bundle_root=str(eyes), dataset_dir=str(tmp_path / "broken.nii"), output_dir=str(out), **configs(eyes)
        )
    assert "broken.nii" in str(error.value.__cause__)


def test_the_metadata_names_classes_channels_and_the_licence_file_is_there(eyes):
    said = json.loads((eyes / "configs" / "metadata.json").read_text())
    data = said["network_data_format"]
    assert data["inputs"]["image"]["channel_def"] == {"0": "MR"}
    assert data["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "rim", "2": "cup"}
    assert data["inputs"]["image"]["value_range"] == [0, 1]
    assert "eyes" in (eyes / "docs" / "LICENSE").read_text()


def test_the_licence_file_holds_the_terms_that_the_checkpoint_states(eyes, tmp_path):
    manifest = json.loads((eyes / "configs" / "metadata.json").read_text())
    header = json.loads(manifest[HEADER_KEY]) | {"license": "for research only"}
    header["preprocessing"]["intensity"] = [{"method": "zscore"}]
    manifest = {HEADER_KEY: json.dumps(header)}
    network = Exportable(bundle_network(eyes), torch.float32)
    write_bundle(tmp_path / "bundle", network, torch.zeros(1, 1, 40, 48), manifest)
    text = (tmp_path / "bundle" / "docs" / "LICENSE").read_text()
    assert text.endswith("The weights in models/: for research only\n") and "Add those terms" not in text
    said = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert said["network_data_format"]["inputs"]["image"]["value_range"] == []  # a z-score is not clipped
