"""Run an exported network in a browser: onnxruntime-web beside our kernel, in logits and time.

    python benchmarks/browser.py [acdc] [--image 224] [--threads 1 2]

Needs chromium, and npm for onnxruntime-web. The page comes from this machine and nothing leaves it: a request to any
other address ends the run. Writes results/browser_<machine>_<date>.md and .json.
"""

import argparse
import base64
import functools
import http.server
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Request, sync_playwright

from mamba_unet import export_model
from mamba_unet.files import write_text
from mamba_unet.models.checkpoint import find_checkpoint
from mamba_unet.models.loading import load
from measuring import median_ms, table, write_result

RUNTIME = "1.30.0"  # of onnxruntime-web
PAGE = """<!doctype html><title>Mamba-UNet</title><script type="module">
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

window.measure = async (bytes, sides, threads, runs) => {
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create("network.onnx");
  const values = new Float32Array(Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0)).buffer);
  const image = new ort.Tensor("float32", values, sides);
  const times = [];
  let logits;
  for (let run = 0; run <= runs; run++) {  // the first warms up
    const start = performance.now();
    logits = (await session.run({ image })).logits.data;
    times.push(performance.now() - start);
  }
  return { times: times.slice(1), logits: Array.from(logits) };
};
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; the two headers let a page have threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="acdc")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    ours = load(find_checkpoint(args.checkpoint))
    torch.manual_seed(0)
    image = torch.rand(1, 1, args.image, args.image)
    rows, values = [], {"image": args.image, "onnxruntime_web": RUNTIME, "runs": []}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        done = export_model(args.checkpoint, Path(folder) / "network.onnx")
        subprocess.run(["npm", "install", "--silent", f"onnxruntime-web@{RUNTIME}"], cwd=folder, check=True)
        write_text(Path(folder) / "index.html", PAGE)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        strangers: list[str] = []

        def watch(request: Request) -> None:
            if not request.url.startswith((address, "blob:", "data:")):
                strangers.append(request.url)

        for threads in args.threads:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                expected = ours(image).numpy().ravel()
                kernel = median_ms(lambda: ours(image))
            page = browser.new_page()
            page.on("request", watch)
            page.goto(address)
            page.wait_for_function("() => window.measure !== undefined")
            sent = base64.b64encode(image.numpy().tobytes()).decode()
            got = page.evaluate(
                "([bytes, sides, threads, runs]) => measure(bytes, sides, threads, runs)",
                [sent, list(image.shape), threads, args.runs],
            )
            page.close()
            difference = float(np.abs(np.array(got["logits"], np.float32) - expected).max())
            web = float(np.median(got["times"]))
            if strangers or difference > 1e-3:
                raise SystemExit(f"asked for {strangers}; the logits differ by {difference:.1e}")
            values["runs"].append({"threads": threads, "kernel_ms": kernel, "web_ms": got["times"]})
            rows.append([threads, f"{kernel:.0f}", f"{web:.0f}", f"{web / kernel:.1f}", f"{difference:.1e}"])
        browser.close()
        server.shutdown()
    values |= {"bytes": done.bytes}
    lines = [
        f"`python benchmarks/browser.py`: the network `{args.checkpoint}`, an image of {args.image} x {args.image}, a "
        f"file of {done.bytes / 1e6:.1f} MB, in chromium by onnxruntime-web {RUNTIME} (WebAssembly); medians of "
        f"{args.runs}.",
        "",
        table(["threads", "our kernel, ms", "browser, ms", "ratio", "largest difference of logits"], rows),
        "",
        "No request left the machine.",
    ]
    print(write_result("browser", "A network in a browser", lines, values))


if __name__ == "__main__":
    main()
