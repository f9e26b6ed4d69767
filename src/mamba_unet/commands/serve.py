"""`mamba-unet serve`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command, device, memory, minutes, positive


def add(commands: Commands) -> None:
    parser = command(commands, "serve", "segment and show images on a local web page", run)
    checkpoint = (
        "run folder, checkpoint or hub id (hf:owner/name); may be given several times (default: the runs in runs/)"
    )
    parser.add_argument("--checkpoint", action="append", default=[], metavar="[NAME=]CHECKPOINT", help=checkpoint)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any other than this machine's own demands a token"
    )
    parser.add_argument("--port", type=int, default=8765, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--max-upload-mb", type=positive, default=2048, metavar="MIB", help="size of one upload (default: %(default)s)"
    )
    keep = "delete a result when nobody has asked for it for this long (default: %(default)s)"
    disk = "size of all uploads and results together (default: %(default)s)"
    parser.add_argument("--max-disk-mb", type=positive, default=20480, metavar="MIB", help=disk)
    parser.add_argument("--keep-minutes", type=minutes, default=60, metavar="MINUTES", help=keep)
    collect = "keep every edit in this folder as training data for prepare: image, both labels, who and when"
    parser.add_argument("--collect", type=Path, metavar="DIR", help=collect)
    metrics = "answer /metrics without the token, which other addresses than this machine's own demand"
    parser.add_argument("--metrics-open", action="store_true", help=metrics)
    logs = "how events are logged: json is one object per line, without names of files (default: %(default)s)"
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help=logs)
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--install-viewer", action="store_true", help="only fetch the image viewer, if the installation lacks it"
    )
    device(parser)
    memory(parser)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.serve import viewer

    if args.install_viewer:
        viewer.install()
        print(f"NiiVue {viewer.NIIVUE.version} in {viewer.FOLDER}")
        return 0
    from mamba_unet.serve.run import named_checkpoints, serve

    if args.log_format == "json":
        from mamba_unet.monitoring import log_json

        log_json()
    checkpoints = named_checkpoints(args.checkpoint)
    from mamba_unet.inference import Predictor

    serve(
        {name: Predictor(checkpoint, args.device) for name, checkpoint in checkpoints.items()},
        args.host,
        args.port,
        max_upload_mb=args.max_upload_mb,
        max_disk_mb=args.max_disk_mb,
        keep_minutes=args.keep_minutes,
        open_browser=args.open,
        collect=args.collect,
        metrics_open=args.metrics_open,
    )
    return 0
