"""Command line of the test cluster: python -m e2e.cluster --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from e2e.cluster import build, kubectl_command, select


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it unless it runs; the last line is the path of a kubeconfig")
    commands.add_parser("down", help="stop it and remove what it left")
    commands.add_parser("kubeconfig", help="print the path of its kubeconfig")
    load = commands.add_parser("load", help="load image archives into the node")
    load.add_argument("archives", nargs="+", type=Path)
    commands.add_parser("enter", help="run a command in the node's namespaces (ctr, iptables, ...)")
    commands.add_parser("kubectl", help="run kubectl against it")
    commands.add_parser("programs", help="compile what tests run: Kubernetes, rclone and an S3 server")
    commands.add_parser("image", help="build the operator's image and print the path of its archive")
    commands.add_parser("deploy", help="build, load and roll out the operator")

    # what follows these two is not for us to parse, whatever it looks like
    words = sys.argv[1:]
    split = 1 if words[:1] in (["enter"], ["kubectl"]) else len(words)
    args = parser.parse_args(words[:split])
    rest = words[split:]
    cluster = select()
    match args.command:
        case "up":
            print(cluster.up())
        case "down":
            cluster.down()
        case "kubeconfig":
            print(cluster.kubeconfig())
        case "load":
            cluster.load(*args.archives)
        case "enter":
            _become(cluster.enter_command(*rest))
        case "kubectl":
            _become([*kubectl_command(cluster.kubeconfig()), *rest])
        case "programs":
            build.programs()
        case "image":
            from e2e.cluster import operator_image  # noqa: PLC0415 -- needed here only

            print(operator_image.archive())
        case "deploy":
            from e2e.cluster import deploy  # noqa: PLC0415 -- the rest works without PyYAML

            deploy.deploy(cluster)


def _become(command: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 -- a terminal, its signals and its exit code pass through


if __name__ == "__main__":
    main()
