import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from mamba_unet.volumes import limits
from mamba_unet.volumes.dicom.find import find_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import UnreadableError


def test_a_zip_is_read_in_memory_and_its_names_lead_nowhere(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path / "files", volume)
    with zipfile.ZipFile(tmp_path / "image.zip", "w") as archive:
        for file in files:
            archive.write(file, f"../../{file.name}")
        archive.writestr("../readme.txt", "hello")
    before = sorted(tmp_path.rglob("*"))
    image = read_only(tmp_path / "image.zip")
    assert image.name == "image" and np.array_equal(image.grey[0], volume)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_that_unpacks_too_large_is_refused_before_it_is(write_series, tmp_path, volume, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 22))
    monkeypatch.setattr(limits, "max_bytes", 1 << 20)
    with pytest.raises(UnreadableError, match=r"bomb\.zip: needs .* GiB of memory, the limit is"):
        find_series(tmp_path / "bomb.zip")


def test_a_zip_that_cannot_be_unpacked_within_bounds_is_refused(write_series, tmp_path, volume):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        for file in write_series(tmp_path / "files", volume):
            archive.write(file, file.name)
    with pytest.raises(UnreadableError, match="packed in an unusual way"):
        find_series(tmp_path / "a.zip")


def test_files_without_preamble_and_second_copies_are_read_once(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path, volume)
    for file in files:
        (tmp_path / f"{file.name}.copy").write_bytes(file.read_bytes())
    import pydicom

    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    image = read_only(tmp_path)
    assert np.array_equal(image.grey[0], volume)


def test_a_path_that_is_not_there_and_a_folder_without_images(tmp_path):
    with pytest.raises(UnreadableError, match="no such file or folder"):
        find_series(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("text")
    assert find_series(tmp_path) == []


@pytest.mark.parametrize("start", ["group 2", "group 8"])
def test_files_that_begin_without_a_preamble_are_dicom(read_only, write_series, tmp_path, volume, start):
    for file in write_series(tmp_path, volume):
        data = file.read_bytes()[132:]
        file.write_bytes(data if start == "group 2" else data[12 + int.from_bytes(data[8:12], "little") :])
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def test_linked_folders_are_searched_once_and_dangling_links_passed_over(read_only, write_series, tmp_path, volume):
    write_series(tmp_path / "archive", volume)
    study = tmp_path / "study"
    study.mkdir()
    (study / "series").symlink_to(tmp_path / "archive")
    (study / "round").symlink_to(study)
    (study / "nowhere").symlink_to(tmp_path / "nothing")
    assert np.array_equal(read_only(study).grey[0], volume)


def replaced(file: Path, content: bytes | None, name: str) -> None:
    """The file as another one: of this content, or as a link to nothing."""
    file.unlink()
    file = file.with_name(name)
    if content is None:
        file.symlink_to(file.with_name("nothing"))
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("IM{}", b"", "empty; copy it again"),
        ("IM{}.dcm", bytes(900), "empty, or zeros; copy it again"),
        ("1.2.840.{}", b"version https://git-lfs.github.com/spec/v1", "a pointer of git-lfs"),
        ("{}c0ffee.IMA", b"<html>429 Too many requests</html>", "a web page"),
        ("IM{}.gz", gzip.compress(b"DICM", mtime=0), "gzipped; unpack it"),
        ("IM{}.dcm.gz", gzip.compress(b"DICM", mtime=0), "gzipped; unpack it"),
        ("Img{}.Mag", b"Not found", "it begins with b'Not foun'; damaged, or of another kind"),
        ("IM{}", None, "a link to a file that is not there; fetch it"),
    ],
)
def test_a_slice_that_is_no_dicom_any_more_is_refused_by_name(
    write_series, tmp_path, volume, name, content, reason, packed
):
    """At an end of the stack nothing else tells of it."""
    study = tmp_path / "study"
    for number, file in enumerate(write_series(study, volume), 71):
        last = file.rename(study / name.removesuffix(".gz").format(number))
    replaced(last, content, lost := name.format(74))
    if packed and content is not None:
        with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
            for file in study.iterdir():
                archive.write(file, f"S1\\{file.name}")
        study = tmp_path / "study.zip"
    with pytest.raises(UnreadableError, match=f"named as DICOM, and is none: {reason}") as refused:
        find_series(study)
    assert refused.value.file.name.endswith(lost) and refused.value.damaged


def test_companions_of_dicom_are_passed_over(read_only, write_series, tmp_path, volume):
    one, *_ = write_series(tmp_path, volume)
    companions = ["VERSION", "README", "MD5SUMS", "DICOMDIR", "report.txt", "IM0001.json", "IM0001.png", "LOCK"]
    for name in (*companions, "AUTORUN.INF", ".DS_Store", "._IM0001", "._IM0001.dcm", "series2.xml"):
        (tmp_path / name).write_bytes(b"" if name in ("DICOMDIR", "LOCK") else b"\0\x05\x16\x07")
    one.with_name(f"{one.name}.gz").write_bytes(gzip.compress(one.read_bytes()))  # what `gunzip -k` leaves
    for folder, name in (("below", one.name), (".AppleDouble", "IM0001.dcm")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()  # without DICOM beside it
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def test_a_zip_from_windows_or_a_mac_is_read(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path / "files", volume)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in files:
            entry = zipfile.ZipInfo("x")
            entry.filename = f"Export\\Series 1\\{file.name}"
            archive.writestr(entry, file.read_bytes())
            archive.writestr(f"__MACOSX/._{file.name}", b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(82))
        archive.writestr("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(100))
    assert np.array_equal(read_only(tmp_path / "a.zip").grey[0], volume)


def test_a_zip_without_dicom_says_what_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner.zip", b"PK")
        archive.writestr("b\x1b.nii.gz", b"\x1f\x8b")
    with pytest.raises(UnreadableError, match=r"no DICOM in the zip, but b\\x1b\.nii\.gz, inner\.zip; unpack it"):
        find_series(tmp_path / "a.zip")


def test_volumes_beside_dicom_in_a_zip_are_passed_over_and_named(read_only, write_series, tmp_path, volume, caplog):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in write_series(tmp_path / "files", volume):
            archive.write(file, file.name)
        archive.writestr("report.pdf", b"%PDF")
        archive.writestr("preview.png", b"\x89PNG")
        archive.writestr("other.nii.gz", b"\x1f\x8b")
    assert np.array_equal(read_only(tmp_path / "a.zip").grey[0], volume)
    assert "a.zip: passed over other.nii.gz: of a zip only DICOM is read" in caplog.text


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_whose_members_share_a_name_is_refused(write_series, tmp_path, volume):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in write_series(tmp_path / "files", volume):
            archive.writestr("image", file.read_bytes())
    with pytest.raises(UnreadableError, match=r"1 names in the zip stand for several files each, such as image"):
        find_series(tmp_path / "a.zip")


def deflated(file: Path, after: bytes = b"") -> bytes:
    """A DICOM file as its deflated kind, with more behind the data set."""
    data = file.read_bytes()
    end = 132 + 12 + int.from_bytes(data[140:144], "little")
    meta = data[:end].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    meta = meta.replace(b"UI\x14\x00" + b"1.2.840.10008.1.2.1.99", b"UI\x16\x00" + b"1.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = meta[:140] + (int.from_bytes(meta[140:144], "little") + 2).to_bytes(4, "little") + meta[144:]
    return meta + packer.compress(data[end:] + after) + packer.flush()


def test_deflated_files_are_read(read_only, write_series, tmp_path, volume):
    for file in write_series(tmp_path, volume):
        file.write_bytes(deflated(file))
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def peak_bytes(call) -> tuple[int, str]:
    """Memory at most taken by a call that is refused, and what it says."""
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError) as refused:
            call()
        return tracemalloc.get_traced_memory()[1], str(refused.value)
    finally:
        tracemalloc.stop()


def test_what_unpacks_without_end_is_refused_while_it_is_unpacked(write_series, tmp_path, volume, monkeypatch):
    file = write_series(tmp_path / "files", volume)[0]
    (tmp_path / "bomb.dcm").write_bytes(deflated(file, bytes(64 << 20)))
    with zipfile.ZipFile(tmp_path / "lies.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image", file.read_bytes() + bytes(64 << 20))
    data = (tmp_path / "lies.zip").read_bytes()
    size = (file.stat().st_size + (64 << 20)).to_bytes(4, "little")
    (tmp_path / "lies.zip").write_bytes(data.replace(size, (5000).to_bytes(4, "little")))
    monkeypatch.setattr(limits, "max_bytes", 8 << 20)
    peak, said = peak_bytes(lambda: find_series(tmp_path / "bomb.dcm"))
    assert "GiB of memory, the limit is" in said and peak < 24 << 20
    peak, said = peak_bytes(lambda: find_series(tmp_path / "lies.zip"))
    assert "damaged or cut short" in said and peak < 24 << 20


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken(write_series, tmp_path, volume, syntax):
    import pydicom

    for claim in ({"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2_000_000_000}):
        file = write_series(tmp_path, volume[:1], syntax=syntax)[0]
        dataset = pydicom.dcmread(file)
        dataset.update(claim)
        dataset.SpacingBetweenSlices, dataset.Modality = 1, "CT"
        dataset.save_as(file)
        peak, _ = peak_bytes(lambda: [read_series(one) for one in find_series(tmp_path)])
        assert peak < 8 << 20


def test_damaged_files_end_in_a_sentence(write_series, tmp_path, volume):
    random = np.random.default_rng(0)
    syntaxes = (None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80")
    whole = [
        write_series(tmp_path / f"{number}", volume[:1], syntax=syntax)[0].read_bytes()
        for number, syntax in enumerate(syntaxes)
    ]
    ends = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(whole[random.integers(3)])
        for _ in range(random.choice([1, 3, 20])):
            at = int(random.integers(128, len(data)))
            match random.integers(3):
                case 0:
                    data[at] ^= 1 << int(random.integers(8))
                case 1:
                    del data[at : at + int(random.integers(1, 30))]
                case 2:
                    data[at:at] = random.bytes(int(random.integers(1, 9)))
        file = tmp_path / "damaged.dcm"
        file.write_bytes(data)
        try:
            for series in find_series(file):
                assert str(series).isprintable() and np.isfinite(read_series(series).grey).all()
            ends["read"] += 1
        except UnreadableError as error:
            assert error.reason.isprintable() and error.file == file
            ends["refused"] += 1
    assert min(ends.values()) > 50
