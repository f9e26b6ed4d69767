import base64
import hashlib
import io
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mamba_unet.serve import viewer


@pytest.fixture
def registry(monkeypatch):
    """npm as far as it is needed: every package is its own name in the file that is wanted."""
    asked = []

    def archive(package):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as files:
            content = f"this is {package.name}".encode()
            member = tarfile.TarInfo(f"package/{package.file}")
            member.size = len(content)
            files.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    def with_hash(package):
        archives[url(package)] = archive(package)
        return package._replace(sha512=base64.b64encode(hashlib.sha512(archives[url(package)]).digest()).decode())

    def url(package):
        return f"{viewer.REGISTRY}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(archives[url])

    archives = {}
    monkeypatch.setattr(viewer, "NIIVUE", with_hash(viewer.NIIVUE))
    monkeypatch.setattr(viewer, "BUNDLED", tuple(map(with_hash, viewer.BUNDLED)))
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def test_the_viewer_comes_once_with_the_licences_of_all_that_is_in_it(registry, tmp_path):
    viewer.install(tmp_path / "niivue")
    assert (tmp_path / "niivue" / "niivue.js").read_text() == "this is @niivue/niivue"
    licences = (tmp_path / "niivue" / "LICENSES.txt").read_text()
    assert "Copyright (c) 2021, Niivue" in licences
    assert all(f"this is {package.name}" in licences for package in viewer.BUNDLED)
    assert sorted(path.name for path in (tmp_path / "niivue").iterdir()) == ["LICENSES.txt", "niivue.js", "version.txt"]
    count = len(registry)
    viewer.install(tmp_path / "niivue")
    assert len(registry) == count


def test_another_archive_than_the_one_known_is_refused_and_nothing_is_written(registry, monkeypatch, tmp_path):
    monkeypatch.setattr(viewer, "NIIVUE", viewer.NIIVUE._replace(sha512="A" * 86 + "=="))
    with pytest.raises(OSError, match="not the archive we know"):
        viewer.install(tmp_path / "niivue")
    assert not viewer.installed(tmp_path / "niivue") and not (tmp_path / "niivue").exists()


def test_the_build_runs_it_before_the_package_can_be_imported():
    found = runpy.run_path(viewer.__file__)
    assert found["NIIVUE"].version == viewer.NIIVUE.version and found["FOLDER"] == viewer.FOLDER


def test_a_package_is_built_without_the_viewer_where_its_archive_is_another_one(tmp_path):
    source = Path(viewer.__file__).parent
    here = tmp_path / "src" / "mamba_unet" / "serve"
    here.mkdir(parents=True)
    (here / "__init__.py").touch()
    shutil.copy(source / "NIIVUE_LICENSE.txt", here)
    registry = tmp_path / "registry" / "@niivue" / "niivue" / "-"
    registry.mkdir(parents=True)
    (registry / f"niivue-{viewer.NIIVUE.version}.tgz").write_bytes(b"another archive")
    text = Path(viewer.__file__).read_text(encoding="utf-8")
    text = text.replace(viewer.REGISTRY, (tmp_path / "registry").as_uri())
    (here / "viewer.py").write_text(text, encoding="utf-8")
    shutil.copy(source.parents[2] / "setup.py", tmp_path)
    command = [sys.executable, "-W", "error::UserWarning", "setup.py", "build_py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "built without the viewer" in done.stderr and "not the archive we know" in done.stderr
    assert not (here / "static").exists()
