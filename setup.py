"""How is the native module built?  Everything else about the package stands in pyproject.toml.

EVALKIT_SANITIZE=address,undefined builds with the sanitizers; preload their libraries when running Python then.
"""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

SANITIZE = os.environ.get("EVALKIT_SANITIZE", "")

# No fast-math, no -march=native; no contraction to fused multiply-add: the fused and the strict spelling of an expert
# must round alike wherever the compiler places an expression.
COMPILE = ["-O2", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
LINK = []
if SANITIZE:
    flags = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    COMPILE += [*flags, "-fno-sanitize-recover=all"]
    LINK += flags

ParallelCompile("EVALKIT_BUILD_JOBS").install()

setup(
    ext_modules=[
        Pybind11Extension(
            "evalkit._native",
            sources=sorted([*glob("csrc/core/*.cpp"), *glob("csrc/bind/*.cpp")]),
            depends=sorted([*glob("csrc/core/*.hpp"), *glob("csrc/bind/*.hpp")]),
            cxx_std=17,
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        ),
        Extension("evalkit.train.data._gather", sources=["evalkit/train/data/_gather.pyx"], extra_compile_args=["-O3"]),
    ],
    cmdclass={"build_ext": build_ext},
)
