"""Compare networks on a real data set under one budget and write the table down.

    python benchmarks/comparison.py acdc_cpu acdc_cpu_unet --source path/to/ACDC --out comparison --iterations 400 ...

prepares the data in OUT/data, runs `mamba-unet compare` in OUT/comparison with the words given (what is trained already
is not trained again), and writes benchmarks/results/comparison_<data>_<hardware>_<date>.md and .json.
"""

import argparse
import json
import shlex
from pathlib import Path

from mamba_unet.data import PreparedDataset
from measuring import run, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    args, words = parser.parse_known_args()

    data, folder = args.out / "data", args.out / "comparison"
    run("prepare", args.source, data)
    run("compare", *args.recipes, "--data", data, "--out", folder, *words)

    prepared = PreparedDataset(data)
    given = [*args.recipes, "--source", args.source.name, "--out", args.out.name, *words]
    command = "python benchmarks/comparison.py " + shlex.join(given)
    lines = [f"Command: `{command}`"]
    lines += ["", (folder / "table.md").read_text(encoding="utf-8")]
    lines += ["", (folder / "significance.md").read_text(encoding="utf-8")]
    values = {"command": command, "fingerprint": prepared.fingerprint}
    values |= {"comparison": json.loads((folder / "comparison.json").read_text(encoding="utf-8"))}
    write_result(f"comparison_{prepared.name}", f"Networks on {prepared.name} under one budget", lines, values)


if __name__ == "__main__":
    main()
