"""A DICOM series as one volume."""

from mamba_unet.volumes.dicom.decode import check_pixel_data, same_pixels
from mamba_unet.volumes.dicom.files import opened, reading
from mamba_unet.volumes.dicom.find import Series
from mamba_unet.volumes.dicom.frame import Frame, check_attributes, frames_of
from mamba_unet.volumes.dicom.pixels import values_of
from mamba_unet.volumes.dicom.stack import affine_of, spacing_mm, stack_of
from mamba_unet.volumes.formats import stem
from mamba_unet.volumes.geometry import LPS_TO_RAS
from mamba_unet.volumes.limits import require_memory
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import printable


def read_series(series: Series) -> Volume:
    """Read a series as one volume: (1, 1, D, H, W), or (T, 1, D, H, W) for a cine.

    D counts positions along the normal of the image plane. The affine's slice step is the vector between positions,
    which holds a gantry's tilt; `spacing_mm[0]` is the distance between the planes, which makes volumes right. A single
    slice takes its thickness, 1 mm where that is unknown. Values have RescaleSlope and RescaleIntercept applied per
    image (Hounsfield units in CT): integers as narrow as hold them, else float32. Padding far outside the values takes
    the lowest of them. What the user should know of the files is in its notes.

    `Volume.dicom` is the list of T * D data sets in array order, without pixels (a multi-frame object once per frame).

    Raises:
        UnreadableError: names the series, and what makes it no single even stack of grey images: a gap, images that
            share a position and are no cine, mixed orientations or sizes, no geometry, colour, a transfer syntax
            that nothing here decodes, a damaged file, more than the memory limit.
    """
    notes = list(series.notes)
    with reading(series.path, f"{series}: "), opened(series.path) as files:
        require_memory(series.path, sum(files.sizes.get(name, 0) for name in series.files))
        frames: list[Frame] = []
        for name in series.files:
            with reading(files.place(name)):
                dataset = files.read(name)
                check_attributes(dataset)
                check_pixel_data(files.place(name), dataset)
                frames += frames_of(name, dataset, notes)
        stack = stack_of(frames, notes, same_pixels)
        lps, guessed = affine_of(stack[0], notes)
        array = values_of(series.path, stack, notes)
    name = stem(series.path) if series.path.is_file() else series.path.resolve().name
    return Volume(
        name=name,
        array=array[:, None],
        affine=LPS_TO_RAS @ lps,
        spacing_mm=spacing_mm(lps),
        guessed_size=guessed,
        slices_along=0,
        source=series.path,
        dicom=[frame.dataset for phase in stack for frame in phase],
        dicom_frames=tuple(frame.index for phase in stack for frame in phase),
        notes=tuple(map(printable, notes)),
    )
