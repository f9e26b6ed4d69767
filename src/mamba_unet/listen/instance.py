"""One instance, before it is taken: a whole image, under a name of DICOM."""

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_unet.volumes.dicom.decode import check_pixel_data
from mamba_unet.volumes.dicom.files import Files, reading
from mamba_unet.volumes.dicom.find import is_image
from mamba_unet.volumes.formats import RefusedError, UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

OUT_OF_RESOURCES, NO_MATCH, UNREADABLE, IGNORED = 0xA700, 0xA900, 0xC000, 0xB006  # PS3.4, B.2.3


class Refused(Exception):
    """An instance that was not taken.

    Attributes:
        status: of DICOM, to answer with.
        series: its UID; empty where it is not known.
    """

    def __init__(self, status: int, reason: str, series: str = "") -> None:
        super().__init__(reason)
        self.status, self.series = status, series


def checked(data: bytes, sop_class: str = "", instance: str = "") -> "Dataset":
    """The data set of an instance, if it is a whole image and what its sender calls it.

    Args:
        data: a DICOM file.
        sop_class, instance: what the sender calls it; empty where it does not say.

    Raises:
        Refused: it is neither.
    """
    name, series = Path("instance"), ""
    try:
        with reading(name):
            header = Files(name, {name.name: len(data)}, lambda _: BytesIO(data)).read(name.name)
            if header is None:
                raise RefusedError("no DICOM")
            uids = [str(header.get(word, "")) for word in ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")]
            if not all(re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid) and len(uid) <= 64 for uid in uids):
                raise RefusedError("SeriesInstanceUID, SOPInstanceUID or SOPClassUID is no UID")
            series = uids[0]
            wanted = is_image(header) and "LOCALIZER" not in (header.get("ImageType") or ())
            if wanted and any(word not in header for word in ("Rows", "Columns", "BitsAllocated", "PixelData")):
                raise RefusedError("cut short, or an image without pixels")
            if wanted:
                check_pixel_data(name, header)
    except UnreadableError as error:  # what a library says of damage may quote the patient
        raise Refused(UNREADABLE, "damaged or cut short" if error.damaged else error.reason, series) from error
    if not wanted:
        raise Refused(IGNORED, "no image, or a localizer")
    if (sop_class, instance) not in (("", ""), (uids[2], uids[1])):
        raise Refused(NO_MATCH, "its UIDs are not those it is sent under", series)
    return header
