"""Run a remot command on workers that Slurm starts: a job a worker group, ended when the command ends.

Start it on the login node, with ``pip install dask-jobqueue`` beside remot. What follows ``--`` is the command:

    python pipelines/slurm.py --workers 64 --cores 8 --memory 24GB --walltime 08:00:00 -- \\
        build /data/videos --out /data/store

Every machine must see the videos, the store and this Python under the same paths. A job runs one worker process a
core, each with one thread; with ``--gpus N`` a job runs a single worker that has the N GPUs. When the command ends, or
is stopped, the jobs end too; run the same line again to go on. See docs/clusters.md.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

COMMANDS = ("build", "annotate")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with what follows ``--`` as `command`; exits with status 2 and a sentence where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--workers", type=int, default=8, help="worker processes, in as few jobs as hold them")
    size.add_argument("--adaptive", type=int, nargs=2, metavar=("MIN", "MAX"), help="as many as there is work for")
    parser.add_argument("--cores", type=int, default=8, help="CPUs of a job")
    parser.add_argument("--memory", default="24GB", help="memory of a job; begin with 3GB a core")
    parser.add_argument("--walltime", default="04:00:00", help="longest time of a job")
    parser.add_argument("--partition", help="Slurm's partition, where the default one will not do")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a job, all for its only worker")
    parser.add_argument("--interface", help="network interface that all nodes share, for example ib0")
    parser.add_argument("--logs", default="slurm-logs", help="folder for the output of the jobs")
    parser.add_argument("--print", action="store_true", help="print the job script and start nothing")
    own, command = _parted(arguments)
    options = parser.parse_args(own)
    options.command = command
    if min(options.workers, options.cores) < 1 or options.gpus < 0:
        parser.error("--workers and --cores are 1 or more, --gpus is 0 or more")
    if options.adaptive and not 1 <= options.adaptive[0] <= options.adaptive[1]:
        parser.error("--adaptive takes the least number of workers, at least 1, and then the most")
    if not options.print and command[:1] not in [[name] for name in COMMANDS]:
        parser.error(f"after -- comes a remot command that takes --scheduler: {' or '.join(COMMANDS)}")
    for name in ("--scheduler", "--workers"):
        if any(word.split("=")[0] == name for word in command):
            parser.error(f"leave {name} out of the command after --; the jobs are its workers")
    return options


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def cluster_options(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `dask_jobqueue.SLURMCluster`.

    A worker has one thread, since detectors are not made for several; it declares CPU=1, and its GPUs, so that
    tasks that ask for these find it.
    """
    alone = options.gpus > 0
    resources = f"GPU={options.gpus},CPU=1" if alone else "CPU=1"
    return {
        "cores": 1 if alone else options.cores,
        "processes": 1 if alone else options.cores,
        "job_cpu": options.cores,
        "memory": options.memory,
        "walltime": options.walltime,
        "queue": options.partition,
        "interface": options.interface,
        "log_directory": options.logs,
        "job_extra_directives": [f"--gres=gpu:{options.gpus}"] if alone else [],
        "worker_extra_args": ["--resources", resources],
    }


def remot(options: argparse.Namespace, address: str) -> list[str]:
    """The command line to run against the scheduler at `address`."""
    return [sys.executable, "-c", "from remot_data.cli import main; main()", *options.command, "--scheduler", address]


def run(cluster: Any, options: argparse.Namespace) -> int:
    """Size the cluster, run the command once a worker is there, and return its status; the cluster stays open."""
    if options.adaptive:
        cluster.adapt(minimum=options.adaptive[0], maximum=options.adaptive[1])
    else:
        cluster.scale(options.workers)
    print(f"scheduler at {cluster.scheduler_address}; waiting for the first worker", flush=True)
    cluster.wait_for_workers(1)
    line = remot(options, cluster.scheduler_address)
    print(f"running remot {shlex.join(line[3:])}", flush=True)
    process = subprocess.Popen(line)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal sends Ctrl-C to the command as well, which ends by itself and says how to go on.
                continue
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    options = parse(sys.argv[1:])
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        print("this needs the package dask-jobqueue: pip install dask-jobqueue", file=sys.stderr)
        return 2
    # So that `scancel` or the end of a session ends the jobs as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with SLURMCluster(**cluster_options(options)) as cluster:
        if options.print:
            print(cluster.job_script())
            return 0
        return run(cluster, options)


if __name__ == "__main__":
    raise SystemExit(main())
