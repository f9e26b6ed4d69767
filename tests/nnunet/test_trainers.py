"""nnU-Net itself, from PyPI, with our networks: `make test-nnunet` makes the environment for it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mamba_unet import nnunet
from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.data.export import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnU-Net is not here; `make test-nnunet` installs it"),
]

Run = Callable[..., str]
TIMEOUT_S = 1800  # of a busy machine
DATASET = "Dataset501_Phantom"
BRIEF = """
from mamba_unet.nnunet.trainers import mamba_unet_trainers as ours
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Brief:
    network_size = "nano"

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device=None):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 3, 1
        self.initial_lr = 3e-4


class BriefMambaUNet(Brief, ours.nnUNetTrainerMambaUNet):
    pass


class BriefMambaUNetFine(Brief, ours.nnUNetTrainerMambaUNetFine):
    pass


class BriefMambaUNetNoScan(Brief, ours.nnUNetTrainerMambaUNetNoScan):
    pass


class BriefMambaUNet3D(Brief, ours.nnUNetTrainerMambaUNet3D):
    pass


class BriefPlans(Brief, nnUNetTrainer):
    pass
"""
# torchvision's wheels fit one build of torch only. Beside another build it cannot load its operators, and does not
# even come as far as saying so, because two of them are described before. nnU-Net imports it and uses none of them.
TORCHVISION = """
import importlib.abc
import sys


class Operators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            Operators.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                Operators.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Operators())
"""


@pytest.fixture(scope="module")
def nnunet_run(tmp_path_factory):
    """Prepared cases, and how to run a command of nnU-Net on them, planned and preprocessed."""
    folder = tmp_path_factory.mktemp("nnunet")
    prepared = prepare(write_phantom(folder / "source", cases=8), folder / "prepared", progress=False)
    export(prepared, folder / "raw" / DATASET, "nnunet", progress=False)
    (folder / "trainers").mkdir()
    (folder / "trainers" / "brief_trainers.py").write_text(BRIEF)
    environment = os.environ | {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    environment |= {
        "nnUNet_def_n_proc": "1",
        "nnUNet_extTrainer": os.pathsep.join([str(nnunet.TRAINERS), str(folder / "trainers")]),
        "OMP_NUM_THREADS": "1",
    }
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(TORCHVISION)
        paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def run(command: str, *words: object) -> str:
        """A command of nnU-Net, or ours."""
        program = [Path(sys.executable).with_name(f"nnUNetv2_{command}")]
        if command == "compare":
            program = [sys.executable, "-m", "mamba_unet", command]
        workers = {"nnUNet_n_proc_DA": "0" if command == "train" else "1"}
        done = subprocess.run(
            [*program, *map(str, words)], env=environment | workers, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run(
        "plan_and_preprocess",
        "-d",
        501,
        "-c",
        "2d",
        "3d_fullres",
        "-npfp",
        1,
        "-np",
        1,
        1,
        "--verify_dataset_integrity",
    )
    preprocessed = folder / "preprocessed" / DATASET
    (preprocessed / "splits_final.json").write_bytes((folder / "raw" / DATASET / "splits_final.json").read_bytes())
    return prepared, run, folder


def predicted(prepared: PreparedDataset, run: Run, folder: Path, configuration: str, trainer: str) -> Path:
    """Train, predict the test cases, and check that the predictions are such."""
    log = run("train", 501, configuration, 0, "-tr", trainer, "-device", "cpu")
    assert "Epoch 1" in log and "Training done" in log, log
    assert "Current learning rate: 0.0003" in log, log
    assert not re.search(r"\bnan\b", log.split("Training done")[0], re.IGNORECASE), log  # the plans hold "nano"
    out = folder / f"predictions_{configuration}_{trainer}"
    raw = folder / "raw" / DATASET
    run(
        "predict", *("-d", 501, "-c", configuration, "-f", 0, "-tr", trainer, "-i", raw / "imagesTs", "-o", out),
        *("-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta"),
    )  # fmt: skip
    for case in prepared.splits["test"]:
        image, label = nib.load(raw / "imagesTs" / f"{case}_0000.nii.gz"), nib.load(out / f"{case}.nii.gz")
        assert label.shape == image.shape and np.allclose(label.affine, image.affine)
        assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2, 3}
    return out


@pytest.mark.parametrize(
    ("trainer", "configuration"),
    [
        ("BriefMambaUNet", "2d"),
        ("BriefMambaUNetFine", "2d"),
        ("BriefMambaUNetNoScan", "2d"),
        ("BriefMambaUNet3D", "3d_fullres"),
    ],
)
def test_nnunet_trains_and_predicts_with_our_trainer_and_compare_takes_the_predictions(
    nnunet_run, trainer, configuration
):
    prepared, run, folder = nnunet_run
    predictions, out = predicted(*nnunet_run, configuration, trainer), folder / f"comparison_{trainer}"
    run("compare", "--data", prepared.folder, "--out", out, "--external", f"nnunet={predictions}")
    assert "\n| nnunet " in (out / "table.md").read_text()


def test_nnunet_trains_and_predicts_with_a_network_of_its_plans(nnunet_run):
    folder = nnunet_run[2]
    path = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    entry = nnunet.architecture("mamba_unet_fine", "nano")
    plans["configurations"]["2d_mamba"] = {"inherits_from": "2d", "architecture": entry}
    path.write_text(json.dumps(plans, indent=4))
    predicted(*nnunet_run, "2d_mamba", "BriefPlans")


def test_patches_of_three_axes_are_refused_in_words():
    trainers = pytest.importorskip("mamba_unet.nnunet.trainers.mamba_unet_trainers")

    class Configuration:
        patch_size = (16, 32, 32)

    with pytest.raises(ValueError, match=r"segments slices, .* take nnU-Net's configuration 2d"):
        trainers.nnUNetTrainerMambaUNet.build_network_architecture(None, Configuration(), 1, 4)
