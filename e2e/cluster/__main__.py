"""Command line of the test cluster: python -m e2e.cluster --help."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from e2e.cluster import kubectl_command, select


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it unless it runs; the last line is the path of a kubeconfig")
    commands.add_parser("down", help="stop it and remove what it left")
    commands.add_parser("kubeconfig", help="print the path of its kubeconfig")
    load = commands.add_parser("load", help="load image archives into the node")
    load.add_argument("archives", nargs="+", type=Path)
    enter = commands.add_parser("enter", help="run a command in the node's namespaces (ctr, iptables, ...)")
    enter.add_argument("words", nargs=argparse.REMAINDER)
    kubectl = commands.add_parser("kubectl", help="run kubectl against it")
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("image", help="build the operator's image and print the path of its archive")
    commands.add_parser("deploy", help="build, load and roll out the operator")

    args = parser.parse_args()
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
            _become(cluster.enter_command(*args.words))
        case "kubectl":
            _become([*kubectl_command(cluster.kubeconfig()), *args.words])
        case "image":
            from e2e.cluster import operator_image

            print(operator_image.archive())
        case "deploy":
            from e2e.cluster import deploy

            deploy.deploy(cluster)


def _become(command: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 -- a terminal, its signals and its exit code pass through


if __name__ == "__main__":
    main()
