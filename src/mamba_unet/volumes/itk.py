"""MetaImage and NRRD, by SimpleITK."""

import re
from mmap import ACCESS_READ, mmap
from pathlib import Path, PureWindowsPath

from mamba_unet.volumes.formats import NRRD, Kind, UnreadableError, ending
from mamba_unet.volumes.volume import Volume


def read_itk(path: Path, kind: Kind, name: str) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if ending(path, NRRD) else "MetaImageIO")
    reader.SetFileName(str(path))
    for data_file in _data_files(path):
        where = PureWindowsPath(data_file)  # takes both kinds of slash
        if where.anchor or ".." in where.parts:
            raise UnreadableError(
                path, f"its data file {data_file} is elsewhere; expected it in or below the same folder"
            )
    try:
        image = reader.Execute()
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise UnreadableError(path, f"damaged, cut short or without its data file ({said})") from error
    try:
        return Volume.from_sitk(image, name)
    except ValueError as error:
        raise UnreadableError(path, str(error)) from error


def _data_files(path: Path) -> list[str]:
    """Files that the header of a MetaImage or NRRD file names. One sent to a server must not name the server's own."""
    names: list[bytes] = []
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if ending(path, NRRD):  # its header ends at a blank line
            ends = [end for end in (data.find(b"\n\n"), data.find(b"\r\n\r\n")) if end >= 0]
            found = re.finditer(rb"data ?file\s*:\s*([^\r\n]*)", data[: min(ends, default=None)], re.IGNORECASE)
        else:
            found = re.finditer(rb"ElementDataFile\s*[=:]\s*([^\r\n]*)", data)
        for field in found:
            names += data[field.end() :].splitlines() if field[1].startswith(b"LIST") else [field[1]]
    return [name.decode("utf-8", "replace").strip() for name in names]
