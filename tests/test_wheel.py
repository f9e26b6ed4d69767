"""What is published and what `pip install .` gives, built and installed into an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from mamba_unet.data import write_phantom

pytest.importorskip("build")
pytest.importorskip("twine")
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "checkpoints")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="paths of a POSIX environment")]


def run(*words, **kwargs) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment, timeout=600, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository without what was built in it, the viewer excepted: these tests need no network."""
    clone = tmp_path_factory.mktemp("clone")
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info", "evaluation_*")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, clone)
    return clone


def test_what_is_published_is_complete_and_leaves_the_networks_out(clone, tmp_path):
    printed = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, clone)
    assert "Package would be ignored" not in printed
    run(sys.executable, "-m", "twine", "check", "--strict", *tmp_path.iterdir())
    [archive], [wheel] = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(archive) as files:
        archived = {name.partition("/")[2] for name in files.getnames()}
    assert {"setup.py", "src/mamba_unet/ops/scan_kernel.c", "src/mamba_unet/recipes/demo.yaml"} <= archived
    names = zipfile.ZipFile(wheel).namelist()
    modules = {path.relative_to(clone / "src").as_posix() for path in (clone / "src").rglob("*.py")}
    assert modules | {"mamba_unet/recipes/demo.yaml", "mamba_unet/data/splits/acdc.json"} <= set(names)
    assert any(name.startswith("mamba_unet/ops/libscan_base") for name in names) or shutil.which("cc") is None
    assert not [name for name in (*archived, *names) if name.endswith(".safetensors")]


def test_pip_install_of_a_clone_finds_recipes_and_networks_from_anywhere(clone, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "dist", clone)
    venv.create(tmp_path / "fresh", symlinks=True)
    python = tmp_path / "fresh" / "bin" / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    libraries = [path for path in sys.path if path.endswith("-packages")] or [sysconfig.get_paths()["purelib"]]
    Path(packages, "libraries.pth").write_text("\n".join(libraries))  # what the package needs, and not the package
    wheel = next((tmp_path / "dist").glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)

    away = tmp_path / "away"
    write_phantom(away / "phantom", cases=1)
    image = next((away / "phantom").glob("images*/*.nii.gz"))
    command = [python.with_name("mamba-unet")]
    found = "import json, mamba_unet; print(json.dumps(mamba_unet.__file__))"
    assert Path(json.loads(run(python, "-c", found, cwd=away))).is_relative_to(packages)
    assert "acdc_mamba_unet_no_scan" in run(*command, "recipes", cwd=away)
    run(*command, "predict", "acdc", image, "--out", "out", "--device", "cpu", cwd=away)
    assert len(list((away / "out").glob("*.nii.gz"))) == 1
    terms = Path(packages, "mamba_unet", "checkpoints", "README.md").read_text()
    assert "non-commercial" in terms
