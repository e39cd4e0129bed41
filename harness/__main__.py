"""``torchrun --nproc-per-node=8 -m harness RECIPE.toml [flags of evalkit eval]``: one process of a job.

The way in, like ``evalkit/__main__.py``: the package itself does not know the command line.
"""

import importlib
import os
import sys
import traceback

if __name__ == "__main__":
    try:
        code = importlib.import_module("evalkit.cli.rank").main(sys.argv[1:])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 2
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of gloo or NCCL that still wait for a dead rank must not decide the exit code
