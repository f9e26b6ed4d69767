"""Pictures of the page of `mamba-unet serve`, as the README shows it: a trained network on a synthetic heart.

    make demo
    python examples/screenshot_serve.py demo/run demo/phantom/imagesTr/phantom_007_0000.nii.gz --out docs/images

Writes `serve_light.png`, `serve_dark.png` and `serve_phone.png`. Needs Playwright and a chromium.
"""

import argparse
import shutil
import socket
import threading
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from mamba_unet.inference import Predictor
from mamba_unet.serve import create_app

# software rendering, so that the pictures do not depend on the machine's GPU
ARGS = "--no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist".split()
SHOTS = {
    "serve_light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "serve_dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "serve_phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--name", default="heart", help="of the network, on the page")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app({args.name: Predictor(args.checkpoint)}), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=ARGS)
            for name, options in SHOTS.items():
                page = browser.new_context(**options).new_page()
                page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/")
                page.wait_for_selector("#model option", state="attached")
                page.set_input_files("#files", args.volume)
                page.wait_for_selector("body.done")
                page.wait_for_selector("#cover", state="hidden")
                page.wait_for_timeout(500)
                page.screenshot(path=args.out / f"{name}.png")
            browser.close()
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
