"""``torchrun --nproc-per-node=8 -m evalkit.harness RECIPE.toml [flags of evalkit eval]``: one process of a job.

The way in, like ``evalkit/__main__.py``: the package itself does not know the command line.
"""

import importlib
import sys

if __name__ == "__main__":
    importlib.import_module("evalkit.cli.rank").main(sys.argv[1:])
