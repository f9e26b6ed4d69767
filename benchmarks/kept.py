"""Trainings that outlive their machine: of each run what `compare` needs, without weights and predictions, as a zip.

A table of many trainings takes days of a small machine. Whoever has some hours trains some, keeps them in
benchmarks/results/trainings, and the next one goes on from there.
"""

import re
import zipfile
from pathlib import Path

from mamba_unet.evaluation.summary import MADE_BY
from mamba_unet.files import atomic_path, one_at_a_time, read_record, sha256
from mamba_unet.runs import RunFolder

FILES = ("recipe.yaml", "split.json", "annotation.json", "versions.json", "progress.json", "logs/*/metrics.csv")
EVALUATIONS = ("evaluation_*/*.json", "evaluation_*/*.csv")
PLACES = re.compile(r"^(data|out): .*$", re.MULTILINE)  # of the machine that trained
NO_DATE = (1980, 1, 1, 0, 0, 0)  # equal trainings give equal files


def keep(runs: Path, kept: Path) -> None:
    """Zip every run below `runs` that is complete and measured on test cases into `kept`, at the same place.

    A run whose weights are gone came from there, and is left as it is.
    """
    for progress in sorted(runs.rglob("progress.json")):
        run = RunFolder(progress.parent)
        if not run.is_complete or not run.best.is_file() or not is_measured(run):
            continue
        with (
            atomic_path(kept / run.path.relative_to(runs).with_suffix(".zip")) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            for path in sorted(path for pattern in FILES + EVALUATIONS for path in run.path.glob(pattern)):
                text = path.read_text(encoding="utf-8")
                text = PLACES.sub(r"\1: null", text) if path == run.recipe else text
                name = zipfile.ZipInfo(path.relative_to(run.path).as_posix(), NO_DATE)
                archive.writestr(name, text, zipfile.ZIP_DEFLATED)


def is_measured(run: RunFolder) -> bool:
    """Whether the test cases were, and nothing by other weights than those that are there, which no zip could tell."""
    weights = {sha256([path]) for path in run.path.glob("best*.safetensors")}
    records = {path.parent.name: read_record(path) for path in run.path.glob(f"evaluation_*/{MADE_BY}")}
    old = sorted(name for name, made in records.items() if made.get("checkpoint_sha256") not in weights)
    if old:
        print(f"{run.path} is not kept: {', '.join(old)} was made by weights of before; `mamba-unet evaluate` it again")
    return not old and any(name.endswith("test") for name in records)


def restore(kept: Path, runs: Path) -> None:
    """Unpack what `keep` wrote where no run is yet. Several processes may call it at once."""
    with one_at_a_time(runs.with_name(f".{runs.name}.lock")):
        for path in sorted(kept.rglob("*.zip")):
            run = RunFolder(runs / path.relative_to(kept).with_suffix(""))
            if not run.exists:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(run.path)
