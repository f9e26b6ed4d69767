"""What a perfect network could reach: labels shrunk to a network's image size and enlarged again, measured as usual.

    python benchmarks/ceiling.py data/acdc        # a folder that `mamba-unet prepare` wrote

Nearest neighbour both ways is what the paper's code does to labels; no network that sees slices of that size and is
trained on such labels can be better on average. All cases of all splits are measured, for nothing is decided here.
"""

import argparse

from mamba_unet.data import PreparedDataset
from mamba_unet.evaluation.cases import evaluate_cases
from mamba_unet.views.resample import resample
from measuring import table, write_result

SIZES = (64, 96, 128, 160, 192, 224, 256, 320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="prepared data set")
    prepared = PreparedDataset(parser.parse_args().data)
    rows = []
    for size in SIZES:
        evaluation = evaluate_cases(
            lambda case, size=size: resample(resample(case.label, (size, size)), case.label.shape[1:]),
            map(prepared.case, prepared.identifiers),
            prepared.class_names,
            distances=False,
        )
        rows.append({"size": size, "mean": evaluation.mean_foreground_dice, **evaluation.per_class()})
    titles = ["image size", "mean foreground Dice", *prepared.class_names[1:]]
    cells = [[f"{row['size']} x {row['size']}", *(f"{value:.4f}" for value in list(row.values())[1:])] for row in rows]
    text = [f"{len(prepared.identifiers)} cases of {len(prepared.patients)} patients.", "", table(titles, cells)]
    write_result(f"ceiling_{prepared.name}", "The ceiling that shrinking sets", text, {"rows": rows})


if __name__ == "__main__":
    main()
