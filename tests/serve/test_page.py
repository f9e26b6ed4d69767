"""The page in a real browser."""

import base64
import csv
import gzip
import io
import itertools
import re
import threading
import zipfile
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.serve import create_app, viewer

if not viewer.installed():
    pytest.skip("the viewer is not here: mamba-unet serve --install-viewer", allow_module_level=True)

TIMEOUT_MS = 120_000  # two busy cores draw for seconds
ORIENTATIONS = [
    "".join(codes)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*pairs)
]  # fmt: skip
GREY, WHITE = "#56b4e9", "#e69f00"  # colours of the two classes


class Gate:
    """The predictor behind a door, so that a test sees what comes before the result."""

    def __init__(self, predictor):
        self.predictor, self.metadata, self.open = predictor, predictor.metadata, threading.Event()
        self.preprocessing = predictor.preprocessing
        self.open.set()

    def __call__(self, volume, progress, **options):
        progress(2, 6)
        while not self.open.wait(0.02):
            progress(2, 6)
        return self.predictor(volume, progress=progress, **options)


@pytest.fixture(scope="module")
def gate(predictor):
    return Gate(predictor)


@pytest.fixture(scope="module")
def url(gate, listening):
    with listening(create_app({"heart": gate, "second": gate}, max_upload_bytes=2**16)) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="module")
def tab(browser, url):
    yield from opened(browser, url, viewport={"width": 1100, "height": 640})


@pytest.fixture
def page(tab):
    """The page as on its first visit. A new tab for every test would start the viewer anew, which takes seconds."""
    tab.evaluate("localStorage.clear(), sessionStorage.clear()")
    tab.reload()
    tab.wait_for_selector("#model option", state="attached")
    yield tab
    assert not tab.wrong, tab.wrong


@pytest.fixture
def phone(browser, url):
    yield from opened(browser, url, viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")


def opened(browser, url, **options):
    """A tab. `wrong` says what the browser complains of, but refusals and lost servers, for which the page has words;
    and what it asks of any other machine than the one that serves the page."""
    context = browser.new_context(accept_downloads=True, **options)
    tab = context.new_page()
    tab.set_default_timeout(TIMEOUT_MS)
    tab.wrong = []

    def hear(message):
        if message.type in ("error", "warning") and not re.search("status of 4|net::ERR_", message.text):
            tab.wrong.append(message.text)

    def ask(request):
        if not request.url.startswith((url, "blob:", "data:")):
            tab.wrong.append(f"a request to {request.url}")

    context.on("request", ask)
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on("console", hear)
    tab.goto(url)
    tab.wait_for_selector("#model option", state="attached")
    yield tab
    context.close()
    assert not tab.wrong, tab.wrong


def drop(page, *paths):
    """Drop files or folders on the page as the desktop does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    session.detach()


def segmented(page, path):
    drop(page, path)
    page.wait_for_selector("body.done")
    page.wait_for_selector("#cover", state="hidden")


def picture(page) -> np.ndarray:
    """(H, W, 3) of the viewer as it is on the screen, without its buttons and the edges with the letters."""
    buttons = """visible => document.querySelectorAll("#stage > *:not(canvas)").forEach(
        it => it.style.visibility = visible)"""
    page.evaluate(buttons, "hidden")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shown = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    page.evaluate(buttons, "")
    return shown[26:-26, 26:-26]


def tiles_of(page) -> list[list[float]]:
    """Kind, left, top, width and height of all that the viewer shows side by side; kind 4 is 3D."""
    return page.evaluate("""import("/state.js").then(({ page: { viewer: { nv } } }) =>
        nv.screenSlices.map(({ axCorSag, leftTopWidthHeight: [x, y, w, h] }) => [axCorSag, x, y, Math.abs(w), h]))""")


def in_3d(page) -> np.ndarray:
    """(H, W, 3) of the structures in 3D."""
    ((_, left, top, width, height),) = (tile for tile in tiles_of(page) if tile[0] == 4)
    image = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    return image[int(top) :, int(left) :][: int(height), : int(width)]


def pixels(page, color: str) -> int:
    """How many pixels of the viewer are of a colour's hue, however strongly it is laid over grey."""
    shown = picture(page)
    tint = shown - shown.min(axis=-1, keepdims=True)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    wanted = wanted - wanted.min()
    strength = tint.max(axis=-1)
    scaled = tint * wanted.max() / np.maximum(strength, 1)[..., None]
    return int(((strength > 25) & (abs(scaled - wanted).max(axis=-1) < 30)).sum())


def test_a_dropped_volume_shows_its_segmentation_whose_classes_switch_off(page, volume_file):
    assert page.locator("#welcome").is_visible() and not page.locator("#stage").is_visible()
    segmented(page, volume_file)
    both = pixels(page, GREY), pixels(page, WHITE)
    assert min(both) > 2000
    assert page.locator("#readout").inner_text().endswith(("left ventricle", "myocardium"))

    page.get_by_label("show left ventricle").click()
    assert pixels(page, WHITE) == 0 and pixels(page, GREY) == pytest.approx(both[0], rel=0.1)
    page.keyboard.press("1")
    assert pixels(page, GREY) == 0 and not page.get_by_label("show myocardium").is_checked()
    page.keyboard.press("2")
    assert pixels(page, WHITE) == pytest.approx(both[1], rel=0.1)
    page.keyboard.press("o")
    assert pixels(page, WHITE) == 0 and not page.locator("#overlay").is_checked()


def test_opacity_colour_and_name_are_the_viewers_own_and_stay(page, volume_file):
    segmented(page, volume_file)
    before = picture(page)
    page.locator("#opacity").fill("90")
    assert abs(picture(page) - before).max() > 30
    page.get_by_label("colour of left ventricle").fill("#ff0000")
    assert pixels(page, WHITE) == 0 and pixels(page, "#ff0000") > 2000
    page.get_by_label("name of left ventricle").fill("chamber")
    page.keyboard.press("Tab")
    page.reload()
    page.wait_for_selector("body.done")
    page.wait_for_selector("#cover", state="hidden")
    assert page.get_by_label("name of chamber").input_value() == "chamber" and pixels(page, "#ff0000") > 2000
    page.get_by_text("Reset them").click()
    assert page.get_by_label("name of left ventricle").is_visible() and pixels(page, WHITE) > 2000


def test_keys_and_slider_move_through_slices_and_planes(page, volume_file):
    segmented(page, volume_file)
    text = page.locator("#slice-text")
    assert text.inner_text() == "Slice 3 / 6"  # the middle of 2 to 5, which hold structures
    page.keyboard.press("ArrowDown")
    assert text.inner_text() == "Slice 4 / 6" and page.locator("#slice").input_value() == "4"
    page.keyboard.press("Home")
    assert text.inner_text() == "Slice 1 / 6" and pixels(page, WHITE) == 0  # its outermost slices are empty
    page.keyboard.press("ArrowUp")
    assert text.inner_text() == "Slice 1 / 6"
    page.keyboard.press("PageDown")
    assert text.inner_text() == "Slice 6 / 6"
    page.locator("#slice").fill("4")
    assert text.inner_text() == "Slice 4 / 6" and pixels(page, WHITE) > 2000
    page.get_by_role("button", name="Sagittal").click()
    assert text.inner_text().endswith("/ 32")
    page.keyboard.press("m")
    assert page.get_by_role("button", name="All").get_attribute("aria-pressed") == "true"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


@pytest.mark.parametrize("orientation", ["PIR", "SAL"])
def test_voxels_and_slices_are_those_of_the_file_however_it_is_stored(page, tmp_path, orientation):
    """The values tell which voxel is looked at: x + 10 y + 100 z."""
    x, y, z = np.meshgrid(range(9), range(7), range(5), indexing="ij")
    stored = nib.Nifti1Image((x + 10 * y + 100 * z).astype(np.int16), np.eye(4))
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = 2 * sign
    affine[3, 3] = 1
    assert "".join(nib.aff2axcodes(affine)) == orientation
    nib.save(nib.Nifti1Image(stored.dataobj, affine), tmp_path / "a.nii.gz")
    segmented(page, tmp_path / "a.nii.gz")
    for plane, pair in (("Axial", "SI"), ("Coronal", "AP"), ("Sagittal", "LR")):
        page.get_by_role("button", name=plane).click()
        (axis,) = (axis for axis, code in enumerate(orientation) if code in pair)
        for key in ("Home", "ArrowDown", "End"):
            page.keyboard.press(key)
            voxel = [
                int(word) for word in re.search(r"voxel (\d+), (\d+), (\d+)", page.inner_text("#readout")).groups()
            ]
            value = int(re.search(r"value (\d+)", page.inner_text("#readout"))[1])
            assert value == sum((index - 1) * 10**power for power, index in enumerate(voxel))
            number = {"Home": 1, "ArrowDown": 2, "End": stored.shape[axis]}[key]
            assert voxel[axis] == number
            assert page.inner_text("#slice-text") == f"Slice {number} / {stored.shape[axis]}"


@pytest.mark.parametrize("orientation", ["SRP", "AIL"])
def test_a_corner_of_the_patient_is_where_it_belongs_in_every_plane(page, tmp_path, orientation):
    """What lies to the right, front and top, however it is stored: the volume's white and the overlay on it."""
    array = np.full((24, 24, 12), 10, np.int16)
    array[tuple(slice(-6, -2) if code in "RAS" else slice(2, 6) for code in orientation)] = 100
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = sign * (2, 2, 4)[axis]
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "corner.nii.gz")
    segmented(page, tmp_path / "corner.nii.gz")
    page.get_by_label("colour of left ventricle").fill("#ff0000")
    for words, on_the_left in (("Radiological", True), ("Neurological", False)):
        assert page.locator("#convention").inner_text() == words
        for key in "acs":
            page.keyboard.press(key)
            places = []
            for _ in range(2):  # with and without the overlay
                shown = picture(page)
                places.append(np.argwhere((shown > (150, 0, 90)).all(axis=-1)).mean(axis=0) / shown.shape[:2])
                page.keyboard.press("o")
            assert np.allclose(*places, atol=0.02)
            assert places[0][0] < 0.5 and (places[0][1] < 0.5) == on_the_left, (key, places)
        page.keyboard.press("r")


def test_a_picture_is_shown_upright(page, tmp_path):
    grey = np.zeros((60, 90), np.uint8)
    grey[5:20, 10:30] = 255
    Image.fromarray(grey).save(tmp_path / "photo.png")
    segmented(page, tmp_path / "photo.png")
    rows, columns = np.nonzero(np.ptp(picture(page), axis=-1) > 40)
    height, width = picture(page).shape[:2]
    assert rows.mean() < height / 2 and columns.mean() < width / 2
    assert page.locator("#convention").is_disabled() and page.locator("#size-unit").inner_text() == "pixels"


def test_progress_is_shown_and_cancelled_and_the_volume_can_be_taken_up_again(page, gate, volume_file):
    gate.open.clear()
    try:
        drop(page, volume_file)
        page.get_by_text("2 / 6 slices").wait_for()
        assert page.locator("progress").evaluate("bar => bar.value") == pytest.approx(2 / 6)
        page.wait_for_selector("#cover", state="hidden")  # the volume can be looked at already
        assert picture(page).max() > 200
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled").wait_for()
    finally:
        gate.open.set()
    page.get_by_role("button", name="Segment again").click()
    page.wait_for_selector("body.done")


def test_measurements_and_downloads(page, volume_file):
    segmented(page, volume_file)
    label = np.digitize(np.asarray(nib.load(volume_file).dataobj), [40, 80])
    cells = page.locator("#structures tbody tr").nth(1).locator("td").all_inner_texts()[:3]
    assert cells == [f"{(label == 2).sum() * 18 / 1000:.1f}", "100", "2–5"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Segmentation NIfTI").click()
    assert download.value.suggested_filename == "patient007_frame01_segmentation.nii.gz"
    saved = nib.Nifti1Image.from_bytes(gzip.decompress(download.value.path().read_bytes()))
    assert np.array_equal(saved.dataobj, label)
    with page.expect_download() as download:
        page.get_by_role("link", name="Measurements CSV").click()
    with open(download.value.path(), newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{float(rows[1]['volume_ml']):.1f}" == cells[0] and rows[1]["structure"] == "left ventricle"
    with page.expect_download() as download:
        page.get_by_role("link", name="Everything zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = [name.removeprefix("patient007_frame01/patient007_frame01_") for name in archive.namelist()]
        assert names[:2] == ["segmentation.nii.gz", "statistics.csv"] and archive.testzip() is None
        assert "segmented with heart" in archive.read("patient007_frame01/about.txt").decode()
    with page.expect_download() as download:
        page.get_by_role("button", name="This view PNG").click()
    assert download.value.suggested_filename == "patient007_frame01_axial_slice3.png"
    taken = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    assert abs(taken[26:300, 26:-26] - picture(page)[:274]).mean() < 4
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the table").click()
    page.get_by_text("Copied.").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[2].split("\t") == ["left ventricle", *cells] and copied[0].split("\t")[1] == "ml"


def test_the_card_of_a_network_and_whether_it_fits_are_told_and_another_one_is_offered(page, volume_file, monkeypatch):
    segment = Gate.__call__
    misfit = lambda gate, volume, **options: replace(segment(gate, volume, **options), misfits=["pixels are 9 mm"])  # noqa: E731
    monkeypatch.setattr(Gate, "__call__", misfit)
    segmented(page, volume_file)
    assert page.locator("#misfits").inner_text().endswith("may be wrong.\npixels are 9 mm.")
    page.get_by_role("button", name="About it").click()
    card = page.get_by_role("dialog")
    assert "heart: trained on phantom" in card.inner_text() and "Not a medical device" in card.inner_text()
    assert "myocardium, left ventricle" in card.inner_text() and "no patients other than" in card.inner_text()
    page.keyboard.press("Escape")
    offer = page.locator("#offer button")
    assert not offer.is_visible()
    monkeypatch.undo()
    page.locator("#model").select_option("second")
    page.get_by_role("button", name="Coronal").click()
    page.keyboard.press("End")
    page.keyboard.press("+")
    offer.click()
    page.get_by_text("Done with second").wait_for()
    page.wait_for_selector("body.done")
    assert not offer.is_visible() and not page.locator("#misfits").is_visible()
    assert page.get_by_role("button", name="Coronal").get_attribute("aria-pressed") == "true"
    assert page.inner_text("#slice-text") == "Slice 24 / 24" and page.inner_text("#fit") == "125 %"


def test_uncertainty_is_computed_when_it_is_wanted_and_shown_in_place_of_the_fill(page, volume_file):
    segmented(page, volume_file)
    assert not page.get_by_role("link", name="Uncertainty NIfTI").is_visible()
    page.get_by_role("button", name="Fill", exact=True).click()
    assert pixels(page, GREY) > 2000
    page.get_by_label("Uncertainty instead").check()
    page.wait_for_selector("#structures.doubted")
    page.get_by_text("any class as likely").wait_for()
    page.locator("#opacity").fill("100")
    assert pixels(page, GREY) < 200 and np.ptp(picture(page), axis=-1).mean() > 30  # other colours, in most places
    doubt = float(re.search(r"unsure (\S+)", page.inner_text("#readout"))[1])
    cell = page.locator("#structures tbody tr").nth(1).locator("td").nth(3)
    assert 0 < doubt <= 1 and float(cell.inner_text()) == pytest.approx(doubt, abs=0.2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Uncertainty NIfTI").click()
    saved = nib.Nifti1Image.from_bytes(gzip.decompress(download.value.path().read_bytes()))
    assert saved.shape == (32, 24, 6) and 0 < saved.get_fdata().max() <= 1
    page.get_by_label("Uncertainty instead").uncheck()
    assert pixels(page, GREY) > 2000


def test_beside_uncertainty_the_structures_stay_as_they_are_in_3d(page, volume_file):
    segmented(page, volume_file)
    page.get_by_role("button", name="All").click()
    before, slices = in_3d(page), picture(page)
    page.get_by_label("Uncertainty instead").check()
    page.wait_for_selector("body.done #structures.doubted")
    page.wait_for_timeout(300)
    assert abs(in_3d(page) - before).mean() < 1 and abs(picture(page) - slices).mean() > 2
    page.get_by_label("show myocardium").click()
    page.wait_for_timeout(300)
    assert abs(in_3d(page) - before).mean() > 1


def test_uncertainty_stays_off_where_it_would_cost_a_saved_edit(page, volume_file):
    segmented(page, volume_file)
    page.keyboard.press("e")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+s")
    page.wait_for_selector("#version-field", state="visible")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_label("Uncertainty instead").click()
    assert "removes the saved edits" in asked[0]
    assert not page.get_by_label("Uncertainty instead").is_checked()
    page.reload()
    page.wait_for_selector("body.done")
    assert page.locator("#version").input_value() == "1"


def test_a_cine_moves_and_has_its_ejection_fraction(page, cine_file):
    segmented(page, cine_file)
    assert page.locator("#frame-text").inner_text() == "Frame 1 / 4"
    volume = page.locator("#structures tbody tr").nth(1).locator("td").first
    sizes = []
    for button in ("ED: frame 2", "ES: frame 4"):
        page.get_by_role("button", name=button).click()
        sizes.append((pixels(page, WHITE), float(volume.inner_text())))
    assert page.locator("#frame-text").inner_text() == "Frame 4 / 4"
    assert sizes[0][0] > 2 * sizes[1][0] and sizes[0][1] > 2 * sizes[1][1]
    fraction = page.locator("#heart tr", has_text="ejection fraction").locator("td").first
    assert int(fraction.inner_text()) == round(100 * (1 - sizes[1][1] / sizes[0][1]))
    page.keyboard.press("ArrowLeft")
    assert page.locator("#frame-text").inner_text() == "Frame 3 / 4"
    page.locator("#canvas").focus()
    page.keyboard.press(" ")
    page.get_by_text("Frame 1 / 4").wait_for()


def test_what_is_no_volume_is_said_beside_the_others(page, volume_file, tmp_path):
    segmented(page, volume_file)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "large.nii").write_bytes(bytes(2**16 + 1))
    drop(page, tmp_path / "report.pdf")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text().startswith("report.pdf: not a kind of file that is taken")
    assert page.locator("#cover").inner_text() == "Nothing to show"  # not the volume before, under this one's name
    page.get_by_role("button", name="patient007_frame01", exact=True).click()
    page.wait_for_selector("#cover", state="hidden")
    assert pixels(page, WHITE) > 2000
    drop(page, tmp_path / "large.nii")
    page.get_by_text("more than the server takes").wait_for()
    page.route("**/api/jobs", lambda route: route.abort())
    drop(page, volume_file)
    page.get_by_text("The server cannot be reached.").wait_for()
    page.unroute("**/api/jobs")


def test_a_dicom_folder_is_opened_by_its_series(page, dicom_study):
    drop(page, dicom_study)
    choice = page.get_by_role("button", name="again MR, series 4, 6 images")
    choice.wait_for()
    decoded = (
        "Promise.all([...document.querySelectorAll('.choices img')].map(it => it.decode().then(() => it.naturalWidth)))"
    )
    assert page.evaluate(decoded) == [96, 96]
    choice.click()
    page.wait_for_selector("body.done")
    page.wait_for_selector("#cover", state="hidden")
    assert pixels(page, WHITE) > 2000
    assert page.get_by_role("link", name="Segmentation DICOM SEG").is_visible()
    page.get_by_role("button", name="Another volume of it").click()
    page.get_by_role("button", name="short axis MR").click()
    page.locator("#jobs .name", has_text="study_3_short-axis").wait_for()
    page.wait_for_selector("body.done")


def test_a_volume_that_the_graphics_cannot_hold_has_its_numbers_and_files(phone, volume_file):
    page = phone  # a tab of its own, for what is done to it here stays
    page.add_init_script("""
        const real = WebGL2RenderingContext.prototype.getParameter;
        WebGL2RenderingContext.prototype.getParameter =
            function (name) { return name === this.MAX_3D_TEXTURE_SIZE ? 16 : real.call(this, name); };
    """)
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    drop(page, volume_file)
    page.get_by_text("graphics of this device take 16 voxels").wait_for()
    page.wait_for_selector("body.done")
    assert page.get_by_role("link", name="Segmentation NIfTI").is_visible()
    assert not page.locator("#slice").is_visible()


def test_several_files_ask_which_and_are_removed(page, volume_file, cine_file):
    drop(page, volume_file, cine_file)
    page.get_by_role("button", name="patient007_4d").click()
    page.wait_for_selector("body.done")
    assert page.locator("#jobs .name").inner_text() == "patient007_4d"
    page.get_by_role("button", name="Remove patient007_4d").click()
    page.wait_for_selector("#welcome", state="visible")


def test_on_a_phone_everything_is_within_its_width(phone, volume_file):
    segmented(phone, volume_file)
    assert pixels(phone, WHITE) > 500
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    for button in phone.locator("button:visible, input:visible:not([type=color]), a:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390.5


def test_windows_are_chosen_typed_and_dragged_and_the_fields_follow(page, tmp_path):
    hounsfield = np.linspace(-1000, 1000, 32 * 24 * 6).reshape(32, 24, 6).astype(np.int16)
    nib.save(nib.Nifti1Image(hounsfield, np.diag([-1.5, -1.5, 8, 1])), tmp_path / "ct.nii.gz")
    segmented(page, tmp_path / "ct.nii.gz")
    fields = page.locator("#window-low"), page.locator("#window-high")
    window = lambda: [float(field.input_value()) for field in fields]  # noqa: E731
    chosen = page.locator("#preset option:checked")
    assert chosen.inner_text() == "abdomen" and window() == [-160, 240]
    before = picture(page)
    page.locator("#preset").select_option("lung")
    assert window() == [-1350, 150] and abs(picture(page) - before).max() > 30
    fields[0].fill("-100")
    fields[0].press("Enter")
    assert window() == [-100, 150] and chosen.inner_text() == "own"
    page.mouse.move(500, 300)
    page.mouse.down(button="right")
    page.mouse.move(560, 300, steps=4)  # wider
    page.mouse.up(button="right")
    low, high = window()
    assert low < -110 and high > 160 and low + high == pytest.approx(50, abs=2)
    page.mouse.dblclick(500, 300)
    assert window() == [-160, 240] and chosen.inner_text() == "abdomen"


def test_it_zooms_and_moves_and_shows_all_again(page, volume_file):
    segmented(page, volume_file)
    text, before, whole = page.locator("#fit"), pixels(page, WHITE), picture(page)
    assert text.inner_text() == "100 %"
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    page.keyboard.down("Control")
    page.mouse.wheel(0, -150)
    page.keyboard.up("Control")
    zoomed = int(text.inner_text().split()[0])
    assert zoomed > 150 and pixels(page, WHITE) > 1.5 * before
    assert page.inner_text("#slice-text") == "Slice 3 / 6"
    shown = picture(page)
    page.mouse.down(button="middle")
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up(button="middle")
    assert (picture(page) != shown).mean() > 0.05
    page.get_by_role("button", name="Fit to window").click()
    assert text.inner_text() == "100 %" and abs(picture(page) - whole).mean() < 1
    page.keyboard.press("+")
    assert text.inner_text() == "125 %"
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.wheel(0, 120)
    page.wait_for_timeout(200)
    assert page.inner_text("#slice-text") == "Slice 4 / 6"


def test_a_distance_is_measured_in_the_plane_of_a_slice_and_follows_the_zoom(page, volume_file):
    segmented(page, volume_file)
    where = """([x, y]) => import("/state.js").then(({ page: { viewer: { marks, nv } } }) => {
        const { left, top } = nv.canvas.getBoundingClientRect();
        return [left + marks.tiles[0].x(x), top + marks.tiles[0].y(y)];
    })"""
    place = lambda *voxel: page.evaluate(where, voxel)  # noqa: E731
    page.get_by_role("button", name="Ruler").click()
    before = page.inner_text("#readout")
    page.mouse.move(*place(4, 5))
    page.mouse.down()
    page.mouse.move(*place(24, 17), steps=3)
    page.mouse.up()
    length = lambda: float(re.search(r"distance (\S+) mm", page.inner_text("#readout"))[1])  # noqa: E731
    assert length() == pytest.approx(1.5 * np.hypot(20, 12), abs=0.3)
    assert page.inner_text("#readout").startswith(before)  # the crosshair stays
    page.locator("#canvas").focus()
    page.keyboard.press("+")
    page.mouse.move(*place(24, 17))  # an end is taken hold of
    page.mouse.down()
    page.mouse.move(*place(4, 21), steps=3)
    page.mouse.up()
    assert length() == pytest.approx(1.5 * 16, abs=0.3)
    page.keyboard.press("ArrowDown")
    assert "distance" not in page.inner_text("#readout")  # it was of another slice
    page.keyboard.press("ArrowUp")
    assert length()
    page.keyboard.press("Escape")
    assert "distance" not in page.inner_text("#readout")


def test_all_planes_use_their_space_with_the_structures_in_3d(page, volume_file):
    segmented(page, volume_file)
    page.get_by_role("button", name="All").click()
    tiles = tiles_of(page)
    stage = page.locator("#stage").bounding_box()
    assert sorted(tile[0] for tile in tiles) == [0, 1, 2, 4]
    assert sum(tile[3] * tile[4] for tile in tiles) > 0.6 * stage["width"] * stage["height"]
    (render,) = (tile for tile in tiles if tile[0] == 4)
    before = in_3d(page)
    assert (np.ptp(before, axis=-1) > 60).mean() > 0.05 and (before.max(axis=-1) < 20).mean() > 0.2
    x, y = (stage[side] + render[i] + render[i + 2] / 2 for side, i in (("x", 1), ("y", 2)))
    where = page.inner_text("#readout")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=2)
    page.mouse.up()
    assert abs(in_3d(page) - before).max() > 60 and page.inner_text("#readout") == where
    for name in ("left ventricle", "myocardium"):
        page.get_by_label(f"show {name}").click()
    page.wait_for_timeout(300)
    assert (np.ptp(in_3d(page), axis=-1) > 60).mean() < 0.05  # but for the cube that tells directions


def test_structures_are_filled_outlined_or_both(page, volume_file):
    segmented(page, volume_file)
    counts = {}
    for style in ("Fill", "Outline", "Both"):
        page.get_by_role("button", name=style, exact=True).click()
        counts[style] = pixels(page, WHITE)
    assert 100 < counts["Outline"] < counts["Fill"] / 5 and counts["Both"] >= counts["Fill"] * 0.9
    page.get_by_role("button", name="Outline", exact=True).click()
    page.reload()
    page.wait_for_selector("body.done")
    page.wait_for_selector("#cover", state="hidden")
    assert pixels(page, WHITE) == pytest.approx(counts["Outline"], rel=0.1)
    page.get_by_label("show left ventricle").click()
    assert pixels(page, WHITE) == 0


@pytest.mark.parametrize("orientation", ["SRP", "AIL"])
def test_an_outline_lies_around_its_fill_in_every_plane(page, tmp_path, orientation):
    array = np.full((24, 20, 12), 10, np.int16)
    array[3:9, 6:10, 2:6] = 100
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = sign * (2, 2, 4)[axis]
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "box.nii.gz")
    segmented(page, tmp_path / "box.nii.gz")
    page.get_by_label("colour of left ventricle").fill("#ff0000")
    for key in "acs":
        page.keyboard.press(key)
        edges = []
        for style in ("Fill", "Outline"):
            page.get_by_role("button", name=style, exact=True).click()
            shown = picture(page)
            tint = np.argwhere(shown[..., 0] - shown[..., 1] > 60)
            edges.append([*tint.min(axis=0), *tint.max(axis=0)])
        fill, outline = np.array(edges)
        # the outline lies half a voxel outside the outermost centres; the fill fades out around it
        assert (abs(fill - outline) < 14).all() and np.allclose(fill[:2] + fill[2:], outline[:2] + outline[2:], atol=6)
        assert pixels(page, "#ff0000") > 50


def test_two_fingers_zoom_and_leave_the_slice_alone(phone, volume_file):
    segmented(phone, volume_file)
    phone.get_by_role("button", name="All").tap()
    before = phone.inner_text("#slice-text"), phone.inner_text("#readout")
    box = phone.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    session = phone.context.new_cdp_session(phone)

    def touch(kind, *distances):
        points = [{"x": x + sign * far, "y": y, "id": i} for far in distances for i, sign in enumerate((-1, 1))]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 30)
    for distance in range(30, 90, 5):
        touch("touchMove", distance)
        phone.wait_for_timeout(60)
    touch("touchEnd")
    assert (phone.inner_text("#slice-text"), phone.inner_text("#readout")) == before
    assert int(phone.inner_text("#fit").split()[0]) > 150
    phone.touchscreen.tap(x - 20, y - 20)
    assert phone.inner_text("#readout") != before[1]


def test_a_dialog_opens_at_its_top(phone):
    for opener in ("About it", "Keys and help"):
        phone.get_by_role("button", name=opener).tap()
        phone.set_viewport_size({"width": 390, "height": 400})  # less than it needs
        assert phone.locator("dialog[open]").evaluate("it => it.scrollTop") == 0
        phone.get_by_role("button", name="Close").tap()
        phone.locator("dialog[open]").wait_for(state="detached")
        phone.set_viewport_size({"width": 390, "height": 844})


def test_what_a_finger_touches_is_large_enough(phone, cine_file):
    segmented(phone, cine_file)
    for one in phone.locator("button:visible, input:visible:not([type=checkbox]), select:visible, label.box").all():
        box = one.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44, one.evaluate("it => it.outerHTML")


def test_while_something_is_dragged_over_the_page_one_line_is_to_be_read(page, volume_file):
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(volume_file)], "dragOperationsMask": 1}
    session.send("Input.dispatchDragEvent", {"type": "dragEnter", "x": 300, "y": 300, "data": data})
    page.get_by_text("Drop to segment").wait_for()
    assert not page.get_by_role("heading", name="Drop a volume").is_visible()


def test_a_colour_picture_is_shown_in_colour_with_its_segmentation(page, tmp_path, monkeypatch):
    colors = np.full((60, 90, 3), (200, 40, 60), np.uint8)
    colors[5:20, 10:30] = 20, 220, 30
    segment = Gate.__call__
    grey = lambda gate, volume, **options: segment(gate, replace(volume, array=volume.array[:, 1:2]), **options)  # noqa: E731
    monkeypatch.setattr(Gate, "__call__", grey)
    Image.fromarray(colors).save(tmp_path / "photo.png")
    segmented(page, tmp_path / "photo.png")
    page.get_by_role("button", name="Outline", exact=True).click()
    shown = picture(page)
    red, green = (abs(shown - color).max(axis=-1) < 12 for color in ((200, 40, 60), (20, 220, 30)))
    assert red.mean() > 0.3 and green.mean() > 0.02
    rows, columns = np.nonzero(green)
    assert rows.mean() < shown.shape[0] / 2 and columns.mean() < shown.shape[1] / 2
    assert pixels(page, WHITE) > 100  # the outline
    assert re.search(r"value (20, 220, 30|200, 40, 60)", page.inner_text("#readout"))
    assert not page.locator("#window").is_visible()


def test_axe_finds_no_serious_fault(page, phone, volume_file, dicom_study, accessibility_faults, monkeypatch):
    segment = Gate.__call__
    misfit = lambda gate, volume, **options: replace(segment(gate, volume, **options), misfits=["pixels are 9 mm"])  # noqa: E731
    assert not accessibility_faults(page)  # empty
    drop(page, dicom_study)
    page.get_by_role("button", name="again MR, series 4, 6 images").wait_for()
    assert not accessibility_faults(page)  # series to choose from
    page.get_by_role("button", name="again MR, series 4, 6 images").click()
    page.wait_for_selector("body.done")
    page.locator("#model").select_option("second")  # an offer
    page.keyboard.press("e")
    page.wait_for_selector("#edit-bar", state="visible")
    assert not accessibility_faults(page)
    for opener in ("About it", "Keys and help"):
        page.get_by_role("button", name=opener).click()
        assert not accessibility_faults(page)
        page.keyboard.press("Escape")
    monkeypatch.setattr(Gate, "__call__", misfit)
    segmented(phone, volume_file)  # in the dark
    assert phone.locator("#misfits").is_visible() and not accessibility_faults(phone)
    phone.get_by_role("button", name="Edit").tap()
    assert not accessibility_faults(phone)


def voxel_place(page, x, y):
    """Where the stage shows voxel (x, y), counted from 0, of the axial slice of the ring."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # of its new size
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"] / 32, box["height"] / 24)
    left, top = box["x"] + (box["width"] - 32 * scale) / 2, box["y"] + (box["height"] - 24 * scale) / 2
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def saved_label(page, name="Segmentation NIfTI") -> np.ndarray:
    with page.expect_download() as download:
        page.get_by_role("link", name=name).click()
    image = nib.Nifti1Image.from_bytes(gzip.decompress(download.value.path().read_bytes()))
    return np.asarray(image.dataobj)


def millilitres(page, row=1) -> str:
    return page.locator("#structures tbody tr").nth(row).locator("td").first.inner_text()


def test_a_segmentation_is_edited_with_the_mouse_and_saved_as_a_version(page, volume_file):
    segmented(page, volume_file)
    network, before = saved_label(page), millilitres(page)
    page.get_by_role("button", name="Edit").click()
    page.locator("#edit-class").select_option("2")
    page.locator("#edit-size").fill("1")
    page.mouse.move(*voxel_place(page, 22, 3))
    page.mouse.down()
    for corner in ((28, 3), (28, 8), (22, 8), (22, 3)):
        page.mouse.move(*voxel_place(page, *corner), steps=6)
    page.mouse.up()
    voxels = (network == 2).sum()
    assert millilitres(page) == f"{(voxels + 2 * 7 + 2 * 4) * 18 / 1000:.1f}"
    page.keyboard.press("f")
    page.mouse.click(*voxel_place(page, 25, 5))
    assert millilitres(page) == f"{(voxels + 42) * 18 / 1000:.1f}"
    page.mouse.click(*voxel_place(page, 1, 20))
    assert "reaches the border" in page.inner_text("#edit-note")
    page.keyboard.press("v")
    page.mouse.click(*voxel_place(page, 28, 8))
    page.keyboard.press("Control+z")
    assert millilitres(page) == f"{(voxels + 42) * 18 / 1000:.1f}"
    page.keyboard.press("Control+y")
    page.get_by_label("your name").fill("Anna")
    page.get_by_role("button", name="Save").click()
    page.locator("#version option", has_text="Edit 1 · Anna").wait_for(state="attached")
    page.wait_for_selector("#edit-bar", state="hidden")
    expected = network.copy()
    expected[22:29, 3:9, 2] = 2
    expected[28, 8, 2] = 0
    assert np.array_equal(saved_label(page), expected)
    assert millilitres(page) == f"{(voxels + 41) * 18 / 1000:.1f}"

    page.reload()
    page.wait_for_selector("body.done")
    page.wait_for_selector("#cover", state="hidden")
    assert page.locator("#version").input_value() == "1" and millilitres(page) != before
    page.locator("#version").select_option("0")
    page.locator("#downloads a[href*=edits]").first.wait_for(state="detached")
    assert millilitres(page) == before and np.array_equal(saved_label(page), network)


@pytest.mark.parametrize("orientation", ["SRP", "AIL"])
def test_a_voxel_is_edited_by_keys_in_every_plane_however_it_is_stored(page, tmp_path, orientation):
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = sign * (2, 2, 4)[axis]
    affine[3, 3] = 1
    nib.save(nib.Nifti1Image(np.arange(9 * 7 * 5, dtype=np.int16).reshape(9, 7, 5), affine), tmp_path / "a.nii.gz")
    segmented(page, tmp_path / "a.nii.gz")
    expected = saved_label(page).copy()
    page.locator("#canvas").focus()
    page.keyboard.press("e")
    page.keyboard.press("1")
    for _ in range(4):
        page.keyboard.press("[")
    for plane, key in (("a", "b"), ("c", "v"), ("s", "b")):
        for word in (plane, key, "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowUp"):
            page.keyboard.press(word)
        voxel = re.search(r"voxel (\d+), (\d+), (\d+)", page.inner_text("#readout")).groups()
        page.keyboard.press("Enter")
        expected[tuple(int(index) - 1 for index in voxel)] = key == "b"
        assert page.inner_text("#readout").endswith("myocardium" if key == "b" else "background")
    page.keyboard.press("Control+s")
    page.wait_for_selector("#version-field", state="visible")
    assert np.array_equal(saved_label(page), expected)


LOOK_AND_PAINT = """async (cases) => {
    const { page: { viewer } } = await import("/state.js");
    const { Pen } = await import("/pen.js");
    const draw = viewer.nv.drawScene;
    viewer.nv.drawScene = () => {};  // which takes the time, and decides nothing
    const load = (packed) => {
        const bytes = Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
        return niivue.NVImage.loadFromFile({ file: new File([bytes], "a.nii"), name: "a.nii" });
    };
    const found = [];
    for (const { image, label, voxel } of cases) {
        const said = { plane: "axial", oriented: true, spacing_mm: [2, 3, 4], windows: [], step: [1, 1, 1] };
        viewer.showImage(await load(image), said);
        viewer.showLabel(await load(label), viewer.table);
        viewer.lookAt(voxel);
        const pen = new Pen(viewer);
        pen.open();
        pen.size = 1;
        const painted = [[0, 1, 2], [0, 2, 1], [1, 2, 0]].map((axes) => {
            pen.use(axes);
            const at = [...viewer.label.img.entries()].filter(([, value]) => value).map(([index]) => index);
            pen.undo();
            return at;
        });
        found.push({ voxel: viewer.voxel, mm: [...viewer.mm].slice(0, 3), value: viewer.value, painted });
    }
    viewer.nv.drawScene = draw;
    return found;
}"""


def test_what_is_looked_at_and_painted_is_one_voxel_of_the_file_in_all_48_orientations(page, volume_file):
    segmented(page, volume_file)
    x, y, z = np.meshgrid(range(5), range(4), range(3), indexing="ij")
    pack = lambda array, affine: base64.b64encode(nib.Nifti1Image(array, affine).to_bytes()).decode()  # noqa: E731
    cases, expected = [], []
    for orientation in ORIENTATIONS:
        affine = np.zeros((4, 4))
        for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
            affine[along, axis] = sign * (2, 3, 4)[axis]
        affine[:, 3] = 5, -6, 7, 1
        assert "".join(nib.aff2axcodes(affine)) == orientation
        image = (x + 10 * y + 100 * z).astype(np.int16)
        cases.append(
            {"image": pack(image, affine), "label": pack(np.zeros((5, 4, 3), np.uint8), affine), "voxel": [1, 3, 2]}
        )
        place = pytest.approx(list(affine[:3] @ (1, 3, 2, 1)), abs=0.01)
        expected.append({"voxel": [1, 3, 2], "mm": place, "value": [231], "painted": 3 * [[1 + 5 * (3 + 4 * 2)]]})
    assert page.evaluate(LOOK_AND_PAINT, cases) == expected


def test_a_finger_draws_two_fingers_zoom_and_nothing_is_lost_unasked(phone, volume_file):
    segmented(phone, volume_file)
    before = millilitres(phone)
    phone.get_by_role("button", name="Edit").tap()
    phone.locator("#edit-class").select_option("2")
    session = phone.context.new_cdp_session(phone)

    def touch(kind, *places):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        phone.wait_for_timeout(60)

    start, end = voxel_place(phone, 22, 4), voxel_place(phone, 27, 4)
    touch("touchStart", start)
    touch("touchMove", end)
    touch("touchEnd")
    drawn = millilitres(phone)
    assert float(drawn) > float(before)
    touch("touchStart", start)
    touch("touchMove", voxel_place(phone, 22, 12))
    touch("touchStart", voxel_place(phone, 22, 12), end)
    touch("touchEnd")
    assert millilitres(phone) == drawn
    asked = []
    phone.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    phone.get_by_role("button", name="Discard").tap()
    assert "will be lost" in asked[0] and phone.locator("#edit-bar").is_visible()
    for one in phone.locator("#edit-bar").locator("button, select, input:not([type=checkbox])").all():
        box = one.bounding_box()
        assert box["height"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= 390.5, one.evaluate("it => it.id")
    phone.get_by_role("button", name="Undo").tap()
    assert millilitres(phone) == before
    phone.get_by_role("button", name="Close").tap()
    phone.wait_for_selector("#edit-bar", state="hidden")
