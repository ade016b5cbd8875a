"""The outside of the local cluster: holds its namespaces and cleans up after them.

python -m e2e.cluster.supervise RUN_DIR HYPERKUBE PORT ARCHIVE...

Runs in the background until killed. Its children do not outlive it, even when it
is killed with -9; in that case only empty cgroup directories stay behind, which
the next `up` or `down` removes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from e2e.cluster import cgroups
from e2e.cluster.progress import until


def main() -> None:
    work, _, port, *_ = sys.argv[1:]
    run_dir = Path(work)
    with_us = ["setpriv", "--pdeathsig", "KILL"]
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay"
    gate = subprocess.Popen([*with_us, "socat", listen, f"UNIX-CONNECT:{work}/api.sock"])
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    node = subprocess.Popen([*with_us, *unshare, sys.executable, "-m", "e2e.cluster.node", *sys.argv[1:]])
    # unshare ignores TERM while it waits for its child
    signal.signal(signal.SIGTERM, lambda *_: node.kill())

    def inner_pid() -> str:
        if node.poll() is not None:
            sys.exit(f"unshare ended with {node.returncode}")
        found = subprocess.run(["pgrep", "-P", str(node.pid)], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    until("process 1 of the node", lambda: bool(inner_pid()), within=10)
    (run_dir / "node.pid").write_text(inner_pid())
    node.wait()
    # connections that are still open have forked; they lose their other end now
    gate.kill()
    until("the cgroup to be empty", lambda: cgroups.remove(run_dir.name), within=30)


if __name__ == "__main__":
    main()
