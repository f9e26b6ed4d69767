"""`mamba-unet info`."""

import argparse

from mamba_unet.commands.options import Commands, command, device, positive


def add(commands: Commands) -> None:
    parser = command(commands, "info", "show what a checkpoint is; without one, versions, devices and backends", run)
    checkpoint = "run folder, .safetensors file, hub id (hf:owner/name) or name of a network of the repository"
    parser.add_argument("checkpoint", nargs="?", help=checkpoint)
    parser.add_argument("--models", action="store_true", help="also measure what each network costs")
    parser.add_argument(
        "--size", type=positive, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"), help="for --models"
    )
    parser.add_argument(
        "--depth", type=positive, default=16, help="slices of a volume, for the 3D networks of --models"
    )
    parser.add_argument("--batch", type=positive, default=1, help="images at a time, for --models")
    device(parser)


def run(args: argparse.Namespace) -> int:
    if args.checkpoint is not None:
        return _about(args.checkpoint)
    from mamba_unet.environment import bfloat16_speed, describe_environment
    from mamba_unet.inference import choose_device
    from mamba_unet.ops import backend_status

    for name, value in describe_environment().items():
        print(f"{name:<12}{value}")
    print(f"{'bfloat16':<12}on the CPU {bfloat16_speed():.1f} times as fast as float32 (a convolution, measured now)")
    chosen = choose_device(args.device)
    print(f"\nscan backends on {chosen}:")
    for status in backend_status(chosen):
        print(f"  {status.name:<11}{status.reason if status.available else 'not here: ' + status.reason}")
    if args.models:
        height, width = args.size
        what = f"{args.batch} x 1 x {height} x {width}, in 3D {args.batch} x 1 x {args.depth} x {height} x {width},"
        print(f"\nforward pass of {what} on {chosen}:")
        print(_costs((args.depth, height, width), args.batch, str(chosen)), end="")
    return 0


def _about(checkpoint: str) -> int:
    from mamba_unet.models.card import describe
    from mamba_unet.models.checkpoint import find_checkpoint

    path = find_checkpoint(checkpoint)
    said = {"file": f"{path}, {path.stat().st_size / 1e6:.1f} MB"} | describe(path)
    width = max(map(len, said)) + 2
    for title, words in said.items():
        print(f"{title:<{width}}{words}")
    return 0


def _costs(size: tuple[int, int, int], batch: int, device: str) -> str:
    from mamba_unet.models import list_models, model_spec
    from mamba_unet.models.cost import measure_cost_apart
    from mamba_unet.tables import Table

    rows = []
    for name in list_models():
        cost = measure_cost_apart(name, size[-model_spec(name).spatial_dims :], batch, device)
        memory = "unknown" if cost.peak_mib is None else f"{cost.peak_mib:.0f}"
        rows.append([name, f"{cost.parameters:,}", f"{cost.gflops:.1f}", f"{cost.latency_ms:.0f}", memory])
    return Table(["network", "parameters", "GFLOP", "ms", "memory, MiB"], rows).text()
