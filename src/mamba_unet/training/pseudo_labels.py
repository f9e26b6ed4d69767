"""What a training takes for labels, kept at three moments of it for the report."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from mamba_unet.data.case import Case
from mamba_unet.drawing.examples import pick_cases
from mamba_unet.files import atomic_path
from mamba_unet.runs import RunFolder
from mamba_unet.training.batches import TrainingData

MOMENTS = (0.0, 0.5, 1.0)  # the first validation, and those from the middle and the end of the training on
CASES = 3


def keep_pseudo_labels(
    run: RunFolder,
    data: TrainingData,
    step: int,
    done: float,
    predict: Callable[[nn.Module, Case], np.ndarray],
    labellers: Mapping[str, nn.Module],
) -> None:
    """Write the answers to the middle slice of a few cases, once for each moment.

    An npz file: iteration; cases (names); slices; and `<number of the case>/<name>` for each labeller, (H, W) uint8.

    Args:
        run: folder to write into.
        data: whose images without labels are shown, or those with scribbles where there are none.
        step: iterations done.
        done: share of the training that is done.
        predict: a network's answer to a case, (D, H, W).
        labellers: name -> network.
    """
    path = run.pseudo_labels(max(number for number, share in enumerate(MOMENTS) if done >= share))
    if path.exists():
        return
    cases = pick_cases(data.unlabelled_cases or data.training_cases, CASES, seed=0)
    content: dict[str, np.ndarray] = {"iteration": np.array(step), "cases": np.array(cases)}
    slices = []
    for number, case in enumerate(map(data.prepared.case, cases)):
        slices.append(case.image.shape[1] // 2)
        for name, network in labellers.items():
            content[f"{number}/{name}"] = predict(network, case)[slices[-1]]
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, slices=np.array(slices), **content)
