"""`mamba-unet listen`."""

import argparse
import ipaddress
from pathlib import Path

from mamba_unet.commands.options import Commands, command, device, memory, positive


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "listen",
        "receive series as a DICOM node, segment them and send the results to an archive",
        run,
        usage="%(prog)s CHECKPOINT --aet TITLE (--send-to HOST:PORT:AET | --stow URL) [options]",
    )
    parser.add_argument("checkpoint", help="run folder, checkpoint, hub id (hf:owner/name), or acdc")
    folder = "what the node holds on the disk: queue, images, unsent results (default: %(default)s)"
    parser.add_argument("--folder", type=Path, default=Path("mamba-unet-listen"), metavar="DIR", help=folder)
    device(parser)
    memory(parser)
    watch = "answer /health and /metrics (Prometheus) over HTTP at --host, on this port (default: do not)"
    parser.add_argument("--watch-port", type=int, metavar="PORT", help=watch)
    group = parser.add_argument_group("who may send")
    group.add_argument("--aet", required=True, metavar="TITLE", help="AE title of this node, which callers must use")
    host = "address to listen on; any other than this machine's own demands --allow (default: %(default)s)"
    group.add_argument("--host", default="127.0.0.1", help=host)
    group.add_argument("--port", type=int, default=11112, help="port to listen on (default: %(default)s)")
    allow = "AE title of a caller that is let in; several may be given (default: any, from this machine alone)"
    group.add_argument("--allow", nargs="+", action="extend", default=[], metavar="TITLE", help=allow)
    group.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate of this node; it then speaks TLS only")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="its key, where it is in a file of its own")
    authority = "authority that signed the others' certificates; callers must then show one"
    group.add_argument("--tls-ca", type=Path, metavar="PEM", help=authority)
    group = parser.add_argument_group("which series, and when")
    only = (
        "conditions that a series must meet: modality=CT, body-part=ABDOMEN, description=REGEX; given several times, "
        "those of one are enough (default: every series of images)"
    )
    group.add_argument("--only", nargs="+", action="append", default=[], metavar="CONDITION", help=only)
    quiet = "a series is complete when nothing of it has come for so long (default: %(default)s)"
    group.add_argument("--quiet-seconds", type=float, default=30, metavar="SECONDS", help=quiet)
    release = "a series is complete as soon as the association that sent it is released"
    group.add_argument("--at-release", action="store_true", help=release)
    poll = "DICOMweb service that is asked for new series too (QIDO-RS, WADO-RS); several may be given"
    group.add_argument("--poll", action="append", default=[], metavar="URL", help=poll)
    group.add_argument(
        "--poll-seconds", type=float, default=60, metavar="SECONDS", help="how often (default: %(default)s)"
    )
    days = "studies from so many days before today on (default: %(default)s)"
    group.add_argument("--poll-days", type=int, default=1, metavar="DAYS", help=days)
    group = parser.add_argument_group("where results go")
    send = "archive that gets the segmentations and reports by C-STORE; several may be given"
    group.add_argument("--send-to", action="append", default=[], metavar="HOST:PORT:AET", help=send)
    group.add_argument("--send-tls", action="store_true", help="speak TLS with --send-to, too")
    stow = "DICOMweb service that gets them (STOW-RS); several may be given"
    group.add_argument("--stow", action="append", default=[], metavar="URL", help=stow)
    group = parser.add_argument_group("limits")
    for name, default, unit, text in (
        ("--max-instance-mb", 512, "MIB", "size of one instance"),
        ("--max-instances", 5000, "N", "instances of one series"),
        ("--max-disk-mb", 20480, "MIB", "size of all images and unsent results"),
    ):
        group.add_argument(name, type=positive, default=default, metavar=unit, help=f"{text} (default: %(default)s)")
    keep = "remove images so long after they were segmented, failed or were left incomplete (default: %(default)s)"
    group.add_argument("--keep-minutes", type=float, default=60, metavar="MINUTES", help=keep)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.inference import Predictor
    from mamba_unet.listen.node import Node, prepare_log, stopped_by_signals
    from mamba_unet.listen.rules import Rule
    from mamba_unet.listen.send import Archive, check_title
    from mamba_unet.listen.store import Limits
    from mamba_unet.listen.tls import Tls
    from mamba_unet.listen.web import Dicomweb, WebArchive

    title = check_title(args.aet)
    if not args.send_to and not args.stow:
        raise ValueError("results have nowhere to go; give --send-to HOST:PORT:AET, --stow URL, or both")
    if not args.allow and not _loopback(args.host):
        raise ValueError(f"--host {args.host}: other machines could send; name the AE titles that may by --allow")
    tls = Tls(args.tls_cert, args.tls_key, args.tls_ca)
    archives = [Archive.parse(word, title, tls if args.send_tls else None) for word in args.send_to]
    webs = [WebArchive(Dicomweb(url, tls)) for url in args.stow]
    polled = [Dicomweb(url, tls) for url in args.poll]
    rules = [[Rule.parse(word) for word in group] for group in args.only]
    limits = Limits(args.max_instance_mb << 20, args.max_instances, args.max_disk_mb << 20)
    prepare_log()
    with (
        stopped_by_signals() as stop,
        Node(
            Predictor(args.checkpoint, args.device),
            args.folder,
            title,
            [*archives, *webs],
            host=args.host,
            port=args.port,
            allow=[check_title(one) for one in args.allow],
            tls=tls,
            at_release=args.at_release,
            poll=polled,
            poll_s=args.poll_seconds,
            poll_days=args.poll_days,
            rules=rules,
            limits=limits,
            quiet_s=args.quiet_seconds,
            keep_s=60 * args.keep_minutes,
            watch_port=args.watch_port,
        ) as node,
    ):
        print(
            f"{title} listens on {args.host}, port {node.port}; Ctrl-C stops it, and its queue stays in {args.folder}."
        )
        print("Research use; not a medical device.", flush=True)
        node.wait(stop)
    return 0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
