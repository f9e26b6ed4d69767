"""The page's viewer, NiiVue: which files of the npm registry it is made of, and how they come beside the page.

The package's build runs this file by its path, before the package can be imported: the standard library alone.
"""

import base64
import hashlib
import http.client
import io
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "static" / "niivue"
REGISTRY = "https://registry.npmjs.org"
TIMEOUT_S = 30


class Package(NamedTuple):
    """A file of a package of the npm registry.

    Attributes:
        name, version: as npm has them.
        file: wanted, in the package's archive.
        sha512: of the archive, in base64, as npm's lock files have it.
    """

    name: str
    version: str
    file: str
    sha512: str


NIIVUE = Package(
    "@niivue/niivue",
    "0.69.0",
    "dist/niivue.umd.js",
    "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA==",
)
# What NiiVue's bundle holds of others, for their licences.
BUNDLED = (
    Package(
        "@lukeed/uuid",
        "2.0.1",
        "license",
        "qC72D4+CDdjGqJvkFMMEAtancHUQ7/d/tAiHf64z8MopFDmcrtbcJuerDtFceuAfQJ2pDSfCKCtbqoGBNnwg0w==",
    ),
    Package(
        "@ungap/structured-clone",
        "1.2.0",
        "LICENSE",
        "zuVdFrMJiuCDQUMCzQaD6KL28MjnqqN8XnAqiEq9PNm/hCPTSGfrXCOfwj1ow4LFb/tNymJPwsNbVePc1xFqrQ==",
    ),
    Package(
        "@zarrita/storage",
        "0.1.0",
        "LICENSE",
        "lSGDQik2fLt/UyvWzWd23sJFHckEmk50F9Baz2XlbgFQhvd2EVBcHGweOTBhu3c5SB05TzOnlY1M1i2FMDi6YA==",
    ),
    Package(
        "array-equal",
        "1.0.2",
        "LICENSE",
        "gUHx76KtnhEgB3HOuFYiCm3FIdEs6ocM2asHvNTkfu/Y09qQVrrVVaOKENmS2KkSaGoxgXNqC+ZVtR/n0MOkSA==",
    ),
    Package(
        "fflate",
        "0.8.2",
        "LICENSE",
        "cPJU47OaAoCbg0pBvzsgpTPhmhqI5eJjh/JIu8tPj5q+T7iLvW/JAYUqmE7KOB4R1ZyEhzBaIQpQpardBF5z8A==",
    ),
    Package(
        "gl-matrix",
        "3.4.3",
        "LICENSE.md",
        "wcCp8vu8FT22BnvKVPjXa/ICBWRq/zjFfdofZy1WSpQZpphblv12/bOQLBC1rMM7SGOFS9ltVmKOHil5+Ml7gA==",
    ),
    Package(
        "nifti-reader-js",
        "0.8.0",
        "LICENSE",
        "iO1iIhQDfKniy+l/86HfOPte7So+SxBmBiMSiUB2VXU7z4hSewMTlE3h0fCgfzfXvMUa+ilzLTJ2ZHmtFw6EWw==",
    ),
    Package(
        "numcodecs",
        "0.3.2",
        "LICENSE",
        "6YSPnmZgg0P87jnNhi3s+FVLOcIn3y+1CTIgUulA3IdASzK9fJM87sUFkpyA+be9GibGRaST2wCgkD+6U+fWKw==",
    ),
    Package(
        "zarrita",
        "0.5.0",
        "LICENSE",
        "wyvnnzeXh9rBCZxsn6GEW4oXDv3LD2f4KSJ6LLFjYaMNtmAtaSt3qEO3fHuuq0VZWUGb8cjTYDEtwJTa09wp6g==",
    ),
)


def installed(folder: Path = FOLDER) -> bool:
    """Whether the viewer of this version lies there; its version is written last."""
    version = folder / "version.txt"
    return version.is_file() and version.read_text(encoding="utf-8") == NIIVUE.version


def install(folder: Path = FOLDER) -> None:
    """Fetch the viewer and the licences of all that is in it, unless it is there already.

    Raises:
        OSError: no connection to the registry, or an archive that is not the one named here.
    """
    if installed(folder):
        return
    script = fetch(NIIVUE)
    notice = Path(__file__).with_name("NIIVUE_LICENSE.txt").read_text(encoding="utf-8")
    licences = [f"NiiVue {NIIVUE.version}\n\n{notice}"]
    licences += [f"{it.name} {it.version}\n\n{fetch(it).decode('utf-8').strip()}\n" for it in BUNDLED]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "niivue.js", script)
    _write(folder / "LICENSES.txt", f"\n{'-' * 80}\n\n".join(licences).encode())
    _write(folder / "version.txt", NIIVUE.version.encode())


def fetch(package: Package) -> bytes:
    """A package's file, from its archive in the registry.

    Raises:
        OSError: no connection, another archive than expected, or no such file in it.
    """
    url = f"{REGISTRY}/{package.name}/-/{package.name.rpartition('/')[2]}-{package.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            archive = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{url}: the connection broke off") from error
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != package.sha512:
        raise OSError(f"{url}: its sha512 is {found}, expected {package.sha512}; it is not the archive we know")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return files.extractfile(f"package/{package.file}").read()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
