"""Work out on paper what large jobs cost on many GPUs, from results that were measured on single machines.

    python benchmarks/scale.py

Takes the newest result of each kind in benchmarks/results and writes the tables into docs/scale.md, between its two
marks. Nothing is measured here. What is assumed and not measured stands below as constants.
"""

import argparse
import json
import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from mamba_unet.files import write_text
from mamba_unet.words import duration
from measuring import table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- begin: benchmarks/scale.py -->", "<!-- end: benchmarks/scale.py -->"
GPUS = (8, 64, 512)
PER_NODE = 8  # GPUs, assumed
STORAGE = (1, 10, 100)  # GB/s of shared storage, assumed
NETWORK = 25  # GB/s between GPUs of different nodes, assumed
SLICES = 1_000_000
CTS = 10_000
FLOAT32, UINT8 = 4, 1  # bytes of a prepared pixel: image, label


@dataclass(frozen=True)
class Work:
    """Cases that GPUs share, each GPU with one process that reads, computes and writes at the same time.

    Attributes:
        cases: how many.
        stages: what is done with a case -> seconds; the slowest sets the pace.
        mib: read of a case.
        start_s: of a process.
    """

    cases: int
    stages: dict[str, float]
    mib: float
    start_s: float

    @property
    def pace_s(self) -> float:
        return max(self.stages.values())

    @property
    def gb_per_s(self) -> float:
        """What one GPU's process asks of the storage."""
        return self.mib * 2**20 / 1e9 / self.pace_s

    def seconds(self, gpus: int, storage: float = float("inf")) -> float:
        """Until the last case is done, at a storage of so many GB/s."""
        ideal = ceil(self.cases / gpus) * self.pace_s
        return self.start_s + max(ideal, self.cases * self.mib * 2**20 / 1e9 / storage)


def newest(kind: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the newest result whose name begins so."""
    path = max(RESULTS.glob(f"{kind}*.json"), key=lambda one: one.stem.rpartition("_")[2])
    return path.stem, json.loads(path.read_text(encoding="utf-8"))


def tables() -> str:
    """All tables, as Markdown."""
    trained_by, trained = newest("training_acdc_scratch_nvidia")
    predicted_by, predicted = newest("predict")
    node_by, node = newest("node")
    memory_by, memory = newest("training_memory")
    run = trained["training"]
    batch = trained["recipe"]["batch_size"]
    rate = run["iteration"] * batch / (3600 * run["hours"])
    gpu, cores = trained["environment"]["gpus"][0], trained["environment"]["cores"]
    (acdc_name, acdc), (ct_name, ct) = ((k, v) for k, v in predicted.items() if isinstance(v, dict) and "mib" in v)
    slices, rows, columns = (int(side) for side in re.findall(r"\d+", acdc_name))

    def work(cases: int, name: str, one: dict[str, Any]) -> Work:
        seconds, depth = one["seconds"], int(re.findall(r"\d+", name)[0])
        stages = {"reading": seconds["reading"], "network": depth / rate, "writing": seconds["writing"]}
        return Work(cases, stages, one["mib"], node["start_s"])

    heart, body = work(SLICES // slices, acdc_name, acdc), work(CTS, ct_name, ct)
    cpu = predicted["environment"]
    rates = [
        ["network, slices a second and GPU", f"{rate:.0f}", f"{trained_by}: training, {gpu}, {cores} cores"],
        ["reading a CT, s", f"{body.stages['reading']:.2f}", f"{predicted_by}: {ct_name}, {ct['mib']:.0f} MiB"],
        ["writing its segmentation, s", f"{body.stages['writing']:.2f}", f"{predicted_by}"],
        [
            "a whole CT on a CPU, several by one command, s",
            f"{ct['together']:.1f}",
            f"{predicted_by}: {cpu['threads']} threads",
        ],
        ["start of a command, s", f"{node['start_s']:.1f}", node_by],
        ["copy to a node's disk, MiB a second", f"{node['copy_mib_per_s']:.0f}", node_by],
    ]
    parts = ["### The rates", table(["rate", "", "measured in benchmarks/results/"], rates)]
    for title, one in (
        (f"One million slices, {heart.cases:,} volumes of {slices}", heart),
        (f"{CTS:,} CTs of {body.stages['network'] * rate:.0f} slices", body),
    ):
        parts += [f"### Prediction: {title}", _prediction(one)]
    parts += ["### Training: one pass over a million slices", _training(trained, rate, rows * columns)]
    biggest = max(memory["rows"], key=lambda row: row["state"])
    largest = max(memory["rows"], key=lambda row: row["kept"])
    parts += [
        f"### Memory of a training step\n\nFrom {memory_by}. State is weights, gradients and AdamW's two moments, in "
        "float32; kept is what the forward pass holds for the backward one, in float32. Measured in bf16-mixed, a "
        f"step of {trained['recipe']['model.name']}, {trained['recipe']['model.size']}, with {batch} slices took "
        f"{run['peak_gpu_memory_mib'] / 1024:.1f} GiB in all ({trained_by}).",
        table(
            ["network", "batch x sides", "million parameters", "state, GiB", "kept, GiB"],
            [
                [
                    row["network"] + (f", {row['size']}" if row["size"] else ""),
                    " x ".join(map(str, row["shape"])),
                    f"{row['parameters'] / 1e6:.1f}",
                    f"{row['state'] / 2**30:.2f}",
                    f"{row['kept'] / 2**30:.1f}",
                ]
                for row in memory["rows"]
            ],
        ),
        f"The most that sharding could take away is {biggest['state'] / 2**30:.2f} GiB, the state of "
        f"{biggest['network']}. The largest patch keeps {largest['kept'] / 2**30:.0f} GiB, which it does not touch.",
    ]
    return "\n\n".join(parts)


def _prediction(work: Work) -> str:
    slowest = max(work.stages, key=work.stages.get)
    rows = [
        [
            gpus,
            duration(work.seconds(gpus)),
            f"{gpus * work.seconds(gpus) / 3600:.1f}",
            f"{gpus * work.gb_per_s:.2f}",
            *(duration(work.seconds(gpus, storage)) for storage in STORAGE),
        ]
        for gpus in GPUS
    ]
    header = ["GPUs", "time", "GPU hours", "reads, GB/s", *(f"at {storage} GB/s" for storage in STORAGE)]
    return (
        table(header, rows) + f"\n\nThe slowest part of a case is {slowest}, {1000 * work.pace_s:.0f} ms; storage of "
        f"{STORAGE[0]} GB/s is the limit from {ceil(STORAGE[0] / work.gb_per_s)} GPUs on, of {STORAGE[1]} GB/s from "
        f"{ceil(STORAGE[1] / work.gb_per_s)}."
    )


def _training(trained: dict[str, Any], rate: float, pixels: int) -> str:
    batch, gradients = trained["recipe"]["batch_size"], trained["parameters"] * FLOAT32
    mb = pixels * (FLOAT32 + UINT8) / 1e6
    rows = []
    for gpus in GPUS:
        steps = ceil(SLICES / (batch * gpus))
        exchange = 2 * gradients / (NETWORK * 1e9)  # a ring sends and receives every gradient twice
        seconds = steps * (batch / rate + exchange)
        rows.append(
            [
                gpus,
                f"{batch * gpus:,}",
                f"{steps:,}",
                duration(seconds),
                f"{gpus * seconds / 3600:.1f}",
                f"{100 * steps * exchange / seconds:.1f} %",
                f"{gpus * rate * mb / 1000:.1f}",
            ]
        )
    header = ["GPUs", "batch", "steps", "time", "GPU hours", "gradients' share", "reads, GB/s"]
    nodes = GPUS[-1] // PER_NODE
    return table(header, rows) + (
        f"\n\nA million prepared slices of {pixels:,} pixels are {SLICES * mb / 1e6:.2f} TB. With `--cache-dir` each "
        f"of {nodes} nodes reads them all, {nodes * SLICES * mb / 1e6:.0f} TB together; without it, each pass reads "
        f"them once. The gradients of a step are {gradients / 1e6:.0f} MB."
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(PAGE, f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}")
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
