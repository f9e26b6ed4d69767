"""How sure networks are of each voxel.

T frames, K classes, D H W array axes as stored.
"""

import numpy as np


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the class probabilities, as a share of the largest possible: (T, K, D, H, W) -> (T, D, H, W) float32.

    0 where one class has all of the probability, 1 where all classes have the same. Of an ensemble or of test-time
    augmentation, the probabilities are the mean over all answers, so that disagreement counts as well.

    It says where the networks hesitate, not where they are wrong: an image unlike the training's can be segmented
    wrongly with little hesitation.
    """
    entropy = np.zeros(np.delete(probabilities.shape, 1), np.float32)
    for one in np.moveaxis(probabilities, 1, 0):
        entropy -= one * np.log(np.maximum(one, np.finfo(np.float32).tiny))
    return (entropy / np.log(probabilities.shape[1])).clip(0, 1).astype(np.float32)
