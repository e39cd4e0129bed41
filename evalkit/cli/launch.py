"""How ``evalkit eval --nproc N`` becomes N processes: it starts torchrun on this node, and speaks for all ranks."""

from __future__ import annotations

import argparse
import os

from evalkit.cli.recipe import Recipe
from evalkit.cli.session import threads_of


def launch_ranks(args: argparse.Namespace, recipe: Recipe) -> int:
    """Run the same command line on ``recipe.run.nproc`` ranks; returns the exit code of ``evalkit eval``."""
    from evalkit.harness.launch import launch, threads_wanted

    run = recipe.run
    threads = run.threads or threads_of(args.out) or threads_wanted(run.nproc)
    argv = [*args.argv, "--threads", str(threads)]
    resumable = "the same command with the same --out goes on" if args.out else "without --out nothing is kept"
    environ = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return launch(argv, run.nproc, environ, max_restarts=run.max_restarts, resumable=resumable)
