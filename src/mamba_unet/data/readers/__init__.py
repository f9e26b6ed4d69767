"""Readers: each recognises one layout of files and lists the cases in it."""

from pathlib import Path

from mamba_unet.data.readers import acdc, folder, nnunet, synapse
from mamba_unet.data.readers.base import Entry, Layout, Listing

__all__ = ["LAYOUTS", "Entry", "Layout", "Listing", "detect_layout"]

LAYOUTS = {
    layout.name: layout
    for layout in (
        acdc.NIFTI,
        acdc.HDF5,
        synapse.RAW,
        synapse.TRANSUNET,
        nnunet.NNUNET,
        nnunet.DECATHLON,
        folder.FOLDER,
    )
}


def detect_layout(source: str | Path, layout: str | None = None) -> tuple[Layout, Listing]:
    """Say how `source` is laid out, and list its cases.

    Args:
        source: the data set's folder.
        layout: a name in LAYOUTS, to take it as that. None: the one layout that fits; a plain folder of images and
            masks is what fits when no other does.

    Raises:
        ValueError: no such folder or layout, no layout fits, or several do. The message lists the layouts and what each
            needs.
    """
    source = Path(source)
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give the folder that holds the data set")
    if (source / "dataset.json").is_file() and (source / "splits.json").is_file() and (source / "cases").is_dir():
        raise ValueError(f"{source} is a prepared data set already; give it to train or evaluate as it is")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    tried = [LAYOUTS[layout]] if layout else sorted(LAYOUTS.values(), key=lambda known: known is folder.FOLDER)
    fitting: list[tuple[Layout, Listing]] = []
    for candidate in tried:
        if not (fitting and candidate is folder.FOLDER) and (listing := candidate.find(source)) is not None:
            fitting.append((candidate, listing))
    match fitting:
        case [one]:
            return one
        case []:
            wanted = "\n".join(f"  {candidate.name}: {candidate.needs}" for candidate in tried)
            inside = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
            raise ValueError(
                f"{source} is not laid out in a way that is known. It holds: {inside}. Expected:\n{wanted}"
            )
        case _:
            found = "\n".join(f"  {candidate.name}: {listing.why}" for candidate, listing in fitting)
            raise ValueError(
                f"{source} fits several layouts; give the one meant (--layout NAME, in Python layout=NAME) or its own "
                f"folder:\n{found}"
            )
