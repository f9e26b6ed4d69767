"""The page in Debian's Firefox, driven by WebDriver BiDi, which Playwright does not speak to a Firefox of others."""

import asyncio
import base64
import contextlib
import io
import os
import shutil
import subprocess
import time
from itertools import count

import numpy as np
import pytest
from PIL import Image

from mamba_unet.serve import create_app, viewer

aiohttp = pytest.importorskip("aiohttp", reason="lightning brings it")

TIMEOUT_S = 120  # two busy cores draw for seconds
QUIET = {"app.update.enabled": "false", "network.captive-portal-service.enabled": "false"}


@pytest.fixture
def firefox(tmp_path):
    """Address of a Firefox that takes commands, on a screen of its own: without one it has no WebGL."""
    program, screen = shutil.which("firefox-esr") or shutil.which("firefox"), shutil.which("Xvfb")
    if program is None or screen is None:
        pytest.skip("no Firefox here, or no Xvfb")
    if not viewer.installed():
        pytest.skip("the viewer is not here: mamba-unet serve --install-viewer")
    (tmp_path / "user.js").write_text("".join(f'user_pref("{name}", {value});\n' for name, value in QUIET.items()))
    heard, told = os.pipe()
    command = [screen, "-displayfd", str(told), "-screen", "0", "1300x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[told], stderr=subprocess.DEVNULL) as display, open(heard) as number:
        os.close(told)
        environment = os.environ | {"DISPLAY": f":{number.readline().strip()}"}
        command = [program, "--no-remote", "--profile", tmp_path, "--remote-debugging-port", "0"]
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            said = next((line for line in process.stderr if "BiDi listening on " in line), "")
            try:
                yield said.rpartition(" ")[2].strip() + "/session"
            finally:
                process.terminate()
        display.terminate()


async def drive(address, url, path):
    """Open the page, give it a file, and wait until its segmentation is shown.

    Returns:
        The screenshot as an array, and what the page's errors and the addresses of its requests were.
    """
    errors, asked, numbers = [], [], count()
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:

        async def tell(method, **params):
            number = next(numbers)
            await socket.send_json({"id": number, "method": method, "params": params})
            while True:
                answer = await asyncio.wait_for(socket.receive_json(), TIMEOUT_S)
                if answer.get("id") == number:
                    assert answer["type"] == "success", answer
                    return answer["result"]
                if answer.get("method") == "log.entryAdded" and answer["params"]["level"] == "error":
                    errors.append(answer["params"]["text"])
                if answer.get("method") == "network.beforeRequestSent":
                    asked.append(answer["params"]["request"]["url"])

        async def value(words):
            target = {"context": context}
            said = await tell("script.evaluate", expression=words, target=target, awaitPromise=True)
            return said["result"].get("sharedId", said["result"].get("value"))

        async def until(words):
            deadline = time.monotonic() + TIMEOUT_S
            while not await value(words):
                await asyncio.sleep(0.1)
                if time.monotonic() > deadline:
                    raise AssertionError((errors, await value("document.body.innerText")))

        await tell("session.new", capabilities={})
        await tell("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        context = (await tell("browsingContext.getTree"))["contexts"][0]["context"]
        await tell("browsingContext.setViewport", context=context, viewport={"width": 1280, "height": 800})
        await tell("browsingContext.navigate", context=context, url=url, wait="complete")
        await until("document.querySelector('#model option') !== null")
        files = {"sharedId": await value("document.getElementById('files')")}
        await tell("input.setFiles", context=context, element=files, files=[str(path)])
        await until("document.body.classList.contains('done') && document.getElementById('cover').hidden")
        assert await value("document.querySelectorAll('#structures tbody tr').length") == 2
        shot = await tell("browsingContext.captureScreenshot", context=context)
        with contextlib.suppress(TimeoutError):
            await tell("session.end")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")).astype(int), errors, asked


def test_firefox_shows_a_volume_with_its_segmentation(firefox, predictor, volume_file, listening):
    with listening(create_app({"heart": predictor})) as (host, port):
        url = f"http://{host}:{port}/"
        shown, errors, asked = asyncio.run(drive(firefox, url, volume_file))
    assert not errors
    assert asked and not [one for one in asked if not one.startswith((url, "blob:", "data:"))]
    for color in ((0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00)):  # the outlines of both structures
        assert (abs(shown - color).max(axis=-1) < 12).sum() > 300
