"""Shared fixtures: real data, a browser, a network whose answer is known, synthetic DICOM series."""

import os
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # small tensors, and several test processes side by side
os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config, items):
    """Tests marked `fuzz` run only where they are asked for."""
    if "fuzz" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("fuzz")])
        items[:] = [item for item in items if not item.get_closest_marker("fuzz")]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: `MAMBA_UNET_DATA`, else `../shared/data` beside the repository."""
    return _folder(Path(os.environ.get("MAMBA_UNET_DATA", SHARED / "data")))


@pytest.fixture(scope="session")
def acdc_dir(data_dir: Path) -> Path:
    return _folder(data_dir / "acdc")


@pytest.fixture(scope="session")
def ct_dir(data_dir: Path) -> Path:
    return _folder(data_dir / "ct")


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """Numbers from independent implementations that ours must reproduce."""
    return _folder(SHARED / "conformance")


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or another that is there, driven by Playwright. It draws without a GPU."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium here")
    drawing = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", *drawing])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def accessibility_faults(pytestconfig) -> Callable[..., list[str]]:
    """What axe-core finds wrong with a page of the browser: its serious and critical faults, each with its place.

    axe-core (MPL-2.0) is for the tests alone. It comes from the npm registry, once, and is known by its hash.
    """
    from mamba_unet.files import atomic_path
    from mamba_unet.serve.viewer import Package, fetch

    sha512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
    axe = Package("axe-core", "4.14.1", "axe.min.js", sha512)
    kept = Path(pytestconfig.cache.mkdir("axe-core")) / f"{axe.version}.js"
    if not kept.is_file():
        try:
            script = fetch(axe)
        except (urllib.error.URLError, TimeoutError) as error:
            pytest.skip(f"axe-core is not here, and the npm registry cannot be reached: {error}")
        with atomic_path(kept) as temporary:
            temporary.write_bytes(script)

    def faults(page) -> list[str]:
        page.evaluate(kept.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(it => it.violations)")
        return [
            f"{fault['id']}: {node['html']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    return faults


@pytest.fixture
def opened_report(browser, accessibility_faults) -> Callable[[Path], Any]:
    """Opens a report on a phone in the dark and on a desktop by day, where it must fit and have no serious fault of
    accessibility, and ask for no other file; the page on the desktop."""

    def open_report(path: Path):
        for width, height, scheme in ((390, 844, "dark"), (1280, 800, "light")):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            asked = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not accessibility_faults(page)
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    return open_report


class _Ends:
    """`read_volume`, which ends its process at one file once it has been sent to another process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self):
        from mamba_unet.volumes.read import read_volume

        source = "lambda file, *more: __import__('os').abort() if file.name == name else read(file, *more)"
        return eval, (source, {"read": read_volume, "name": self.name})

    def __call__(self, *_):
        raise AssertionError("read in the process of the tests")


@pytest.fixture
def ends_its_reader(monkeypatch) -> Callable[[str, str], None]:
    """(module, name of a file): at this file the library crashes that the module reads files by."""
    return lambda module, name: monkeypatch.setattr(f"{module}.read_volume", _Ends(name))


class Threshold(torch.nn.Module):
    """A 'network' whose answer is known: class 1 where the image is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape))
        return torch.cat([0.5 - x, x - 0.5], dim=1) * self.weight


@pytest.fixture
def threshold() -> Threshold:
    return Threshold()


@pytest.fixture
def save_threshold(tmp_path, monkeypatch):
    """Writes a run folder that loads as the threshold network, with metadata as given."""
    from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
    from mamba_unet.views.intensity import MINMAX, intensity_rules
    from mamba_unet.views.preprocessing import Preprocessing
    from mamba_unet.views.slices import Slices

    monkeypatch.setattr("mamba_unet.models.loading.build_model", lambda *args, **kwargs: Threshold())

    def save(name="run", weight=1.0, **changes):
        metadata = {
            "model": "threshold",
            "config": {},
            "class_names": ["background", "bright"],
        }
        preprocessing = Preprocessing(
            intensity_rules(changes.pop("intensity", MINMAX)),
            changes.pop("orientation", "SPL"),
            changes.pop("view", Slices(changes.pop("image_size", (24, 24)))),
        )
        metadata["preprocessing"] = preprocessing.to_json()
        model = Threshold()
        torch.nn.init.constant_(model.weight, weight)
        save_checkpoint(tmp_path / name / "best.safetensors", model, CheckpointMetadata(**metadata | changes))
        return tmp_path / name

    return save


def write_series(
    folder: Path,
    array: np.ndarray,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 0.75),
    origin: tuple[float, float, float] = (-40.0, 30.0, 100.0),
    shear_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    syntax: str | None = None,
    edit: Callable | None = None,
    **attributes,
) -> list[Path]:
    """Write (D, H, W) or a cine (T, D, H, W) as single-frame MR files, shuffled in name and InstanceNumber.

    Args:
        orientation: ImageOrientationPatient; slices step along its normal.
        spacing_mm: between slices, rows and columns.
        origin: of the first voxel, left posterior superior.
        shear_mm: added to the position from slice to slice, a gantry's tilt.
        syntax: transfer syntax to compress to.
        edit: called with (data set, frame, slice) before each is written; True leaves the file out.
        attributes: for all data sets, SeriesNumber=3, ...
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    frames = array if array.ndim == 4 else array[None]
    row, column = np.reshape(orientation, (2, 3)).astype(float)
    step = np.cross(row, column) * spacing_mm[0] + shear_mm
    names = np.random.default_rng(0).permutation(frames.shape[0] * frames.shape[1])
    shared = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "SeriesNumber": 1,
        "SeriesDescription": "synthetic",
        "PatientName": "Test^Synthetic",
        "PatientID": "synthetic",
        "PixelSpacing": list(spacing_mm[1:]),
        "SliceThickness": spacing_mm[0] / 2,  # not the step: slices may have gaps or overlap
        "ImageOrientationPatient": [float(f"{value:.12g}") for value in (*row, *column)],
        "Rows": frames.shape[2],
        "Columns": frames.shape[3],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * array.itemsize,
        "BitsStored": 8 * array.itemsize,
        "HighBit": 8 * array.itemsize - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
        **attributes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for t, frame in enumerate(frames):
        for d, pixels in enumerate(frame):
            dataset, number = Dataset(), int(names[t * len(frame) + d])
            dataset.update(shared)
            dataset.SOPInstanceUID = generate_uid()
            dataset.InstanceNumber = number + 1
            dataset.ImagePositionPatient = [float(f"{value:.12g}") for value in origin + d * step]
            if len(frames) > 1:
                dataset.TriggerTime = 40 * t + 0.5 * d
            dataset.PixelData = pixels.tobytes()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if edit is not None and edit(dataset, t, d):
                continue
            if syntax is not None:
                dataset.compress(syntax, generate_instance_uid=False)
            written.append(folder / f"IM{number:04d}")  # no extension, as scanners export
            dataset.save_as(written[-1], enforce_file_format=True)
    return written


@pytest.fixture(name="write_series")
def _write_series() -> Callable[..., list[Path]]:
    return write_series
