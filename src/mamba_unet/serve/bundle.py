"""Everything that there is to take away of a volume, in one zip."""

import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mamba_unet.serve.job import EDITS, Job


def write_bundle(job: Job, card: Mapping[str, str]) -> Path:
    """Write a zip into the job's folder, to be deleted by who asked for it.

    It holds the files of the result, those of each edit, and `about.txt`: the network's facts, and where it may not fit
    the image.

    Args:
        job: done.
        card: see `models.card.facts`.
    """
    path = job.folder / f"everything-{secrets.token_hex(4)}.zip"
    lines = [f"{job.name}, segmented with {job.model}. Research use; not a medical device.", ""]
    lines += [f"{title}: {words}" for title, words in card.items()]
    if job.result["misfits"]:
        lines += ["", "Image and network may not fit; the result may be wrong:", *job.result["misfits"]]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # the large ones are compressed already
        for name in job.result["files"]:
            archive.write(job.folder / name, f"{job.name}/{job.name}_{name}")
        for edit in job.edits:
            folder = f"edit{edit['number']}"
            for name in edit["result"]["files"]:
                archive.write(job.folder / EDITS / str(edit["number"]) / name, f"{job.name}/{folder}/{job.name}_{name}")
        archive.writestr(f"{job.name}/about.txt", "\n".join([*lines, ""]))
    return path
