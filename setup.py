"""Builds the CPU scan, a plain C library, optional, once per instruction set, fetches the viewer of the local page,
which a machine without network does without, and takes the trained networks of a clone along. Everything else is in
pyproject.toml."""

import os
import platform
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# The instruction sets that torch tells apart (torch.backends.cpu.get_cpu_capability); the loader picks by its answer.
VARIANTS = {"base": {"unix": [], "msvc": []}}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-mavx2", "-mfma"]
    avx512 = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
    VARIANTS["avx2"] = {"unix": avx2, "msvc": ["/arch:AVX2"]}
    VARIANTS["avx512"] = {"unix": avx512, "msvc": ["/arch:AVX512"]}

FLAGS = {
    "unix": "-std=gnu11 -O3 -g0 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fvisibility=hidden".split(),
    "msvc": "/std:c11 /O2 /fp:precise /fp:contract".split(),
}
if sys.platform != "darwin":
    FLAGS["unix"].append("-fopenmp-simd")  # the pragma alone, not the OpenMP library; clang does without it


class BuildLibrary(build_ext):
    """An extension that is no Python module: no version in its name, no PyInit function, loaded through ctypes."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + (sysconfig.get_config_var("SHLIB_SUFFIX") or ".dll")

    def get_export_symbols(self, ext):
        return []

    def build_extension(self, ext):
        compiler = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        variant = ext.name.rpartition("_")[2]
        ext.extra_compile_args = FLAGS[compiler] + VARIANTS[variant][compiler]
        common, self.build_temp = self.build_temp, os.path.join(self.build_temp, variant)
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = common


class BuildPackage(build_py):
    """The package, and what lies elsewhere or is fetched.

    NiiVue comes beside the page, under src, so that an editable installation has it too. The networks in checkpoints/
    come into what is installed from a clone. The source archive leaves them out, and so does every wheel that is built
    from it: their terms are not those of the code.
    """

    def run(self):
        try:
            runpy.run_path("src/mamba_unet/serve/viewer.py")["install"]()
        except Exception as error:  # whatever it is, the package works without its page
            print(
                f"built without the viewer of `mamba-unet serve`, which says how to get it later: {error}",
                file=sys.stderr,
            )
        super().run()
        if not self.editable_mode and (folder := Path("checkpoints")).is_dir():
            target = Path(self.build_lib, "mamba_unet", "checkpoints")
            target.mkdir(parents=True, exist_ok=True)
            for file in [folder / "README.md", *folder.glob("*.safetensors")]:
                shutil.copy2(file, target)


class PlatformWheel(bdist_wheel):
    """The library does not link Python: one wheel per platform serves every version."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(f"mamba_unet.ops.libscan_{variant}", ["src/mamba_unet/ops/scan_kernel.c"], optional=True)
        for variant in VARIANTS
    ],
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildPackage, "bdist_wheel": PlatformWheel},
)
