"""Shared fixtures: real data, conformance numbers, a browser; and a skip that says so where they are absent."""

import os
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
