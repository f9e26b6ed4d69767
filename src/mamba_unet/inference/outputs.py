"""The folder that results are written to: what is made of a case, what is finished, and by which network.

predict.json            networks and settings that made the results; others are refused
cases/<case>.json       written last of a case: what was made, from what input, and its measures
<case>.nii.gz, ...      see OUTPUTS
statistics.csv          of all finished cases
cardiac.csv, .md        of all hearts among them
"""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mamba_unet.files import STALE_S, TEMPORARY, read_record, remove_temporaries, sha256, write_json, write_json_once
from mamba_unet.inference.segmentation import Segmentation
from mamba_unet.measures.cardiac import CARDIAC_FILES, cardiac_cases, heart_structures, write_cardiac
from mamba_unet.measures.statistics import CaseStatistics, StructureStatistics, write_statistics
from mamba_unet.volumes.formats import PICTURES, UnreadableError, ending

AUTO = "auto"
MOST_MERGES = 10  # of tables, while other machines go on
LONGEST_NAME = 255  # bytes of a file's name, on most disks
SMALL = 4 << 20  # bytes of a file that is read to tell whether it changed; a slice of a DICOM series has some 0.5 MiB


def _save_preview(segmentation: Segmentation, path: Path) -> None:
    from mamba_unet.measures.preview import preview_figure, save_preview

    figure = preview_figure(
        segmentation.image,
        segmentation.labels,
        segmentation.class_names,
        segmentation.spacing_mm,
        segmentation.slice_axis,
        segmentation.volume.orientation,
        segmentation.volume.name,
    )
    save_preview(path, figure)


def _save_statistics(segmentation: Segmentation, path: Path) -> None:
    write_statistics(path, [CaseStatistics(segmentation.volume.name, segmentation.statistics)])


# what can be written of a case: how its file's name ends, and how it is written; a TIFF gives a .tif for "picture"
OUTPUTS: Mapping[str, tuple[str, Callable[[Segmentation, Path], None]]] = {
    "nifti": (".nii.gz", Segmentation.save),
    "picture": (".png", Segmentation.save_picture),
    "dicom-seg": (".dcm", Segmentation.save_dicom_seg),
    "probabilities": ("_probabilities.nii.gz", Segmentation.save_probabilities),
    "uncertainty": ("_uncertainty.nii.gz", Segmentation.save_uncertainty),
    "preview": ("_preview.png", _save_preview),
    "statistics": ("_statistics.json", _save_statistics),
}


class OutputFolder:
    """A folder of results, which several machines may share.

    Args:
        folder: made if needed.
        outputs: words of `OUTPUTS`, what to write of every case; `auto` is a picture of a picture, else NIfTI.
        cardiac: also the table of the hearts' function.
        made_by: networks and settings, ready for JSON; what differs in them makes other results.
        class_names: of the networks.

    Raises:
        ValueError: an unknown output, or hearts wanted of a network that knows none.
    """

    def __init__(
        self,
        folder: str | Path,
        outputs: Collection[str],
        cardiac: bool,
        made_by: Mapping[str, Any],
        class_names: Sequence[str],
    ) -> None:
        if unknown := sorted(set(outputs) - {AUTO, *OUTPUTS}):
            raise ValueError(f"unknown output {', '.join(unknown)}; expected some of {', '.join((AUTO, *OUTPUTS))}")
        if not outputs:
            raise ValueError(f"nothing to write; expected at least one of {', '.join(OUTPUTS)}")
        if cardiac:
            heart_structures(class_names)
        self.folder, self.cardiac, self.made_by = Path(folder), cardiac, dict(made_by)
        self.outputs = [word for word in (AUTO, *OUTPUTS) if word in outputs]

    def words(self, source: Path) -> list[str]:
        """What is written of an input, words of `OUTPUTS`."""
        labels = "picture" if ending(source, PICTURES) else "nifti"
        return list(dict.fromkeys(labels if word == AUTO else word for word in self.outputs))

    def files(self, case: str, source: Path) -> list[Path]:
        """What is written of a case, beside its record."""
        return [self._file(case, word, source) for word in self.words(source)]

    def _file(self, case: str, word: str, source: Path) -> Path:
        return self.folder / _file_name(case, word, source)

    def check_names(self, case: str, source: Path) -> None:
        """Raise UnreadableError if no disk takes the names of a case's files, to know it before a network runs."""
        longest = max(self.files(case, source), key=lambda file: len(os.fsencode(file.name)))
        if (size := len(os.fsencode(longest.name))) > LONGEST_NAME:
            raise UnreadableError(
                source, f"{longest.name[:20]}...{longest.name[-30:]} would have a name of {size} bytes, and "
                f"{LONGEST_NAME} are allowed; rename the input"
            )  # fmt: skip

    def claim(self, sources: Mapping[str, Path], overwrite: bool) -> None:
        """Make sure that these cases can be written here, before anything is.

        Args:
            sources: case -> its input.
            overwrite: whether results of another network may be replaced.

        Raises:
            ValueError: two cases would write one file, an output would replace an input, or the folder holds results
                of other networks or settings, or files that this did not write.
        """
        inputs = {path.resolve() for path in sources.values()}
        writers: dict[Path, str] = {}
        for case, source in sources.items():
            for file in self.files(case, source):
                if (other := writers.setdefault(file, case)) != case:
                    raise ValueError(f"{other} and {case} would both be written as {file.name}; predict them apart")
                if file.resolve() in inputs:
                    raise ValueError(f"{file} is an input and would be overwritten; choose another folder (--out)")
        described = self.folder / "predict.json"
        if not overwrite and (before := read_record(described)):
            self._refuse_other(before)
        elif not overwrite:
            # no method of Path: a name may be too long
            there = [file for file, case in writers.items() if os.path.exists(file) and self._record(case) is None]
            if there:
                raise ValueError(
                    f"{there[0]} is there already, and nothing says what made it; choose another folder (--out), or "
                    "replace such files with --overwrite"
                )
        if overwrite or described.is_file():
            write_json(described, self.made_by)
        elif not write_json_once(described, self.made_by):  # by another process, which was faster
            self._refuse_other(read_record(described))

    def _refuse_other(self, before: Mapping[str, Any]) -> None:
        for what in {**self.made_by, **before}:
            if before.get(what) != self.made_by.get(what):
                raise ValueError(
                    f"{self.folder} holds results made with {what} {before.get(what)}, now it is "
                    f"{self.made_by.get(what)}; choose another folder (--out), or replace them with --overwrite"
                )

    def finished(self, case: str, source: Path, inputs: Sequence[Path]) -> bool:
        """Whether all that is wanted of a case was made by these networks from these very files."""
        try:
            made = self._made(case, stamp(inputs))
        except OSError:  # the input is gone: reading it will say so
            return False
        return made.issuperset(self.words(source)) and all(map(os.path.isfile, self.files(case, source)))

    def _made(self, case: str, made_from: Mapping[str, Any]) -> set[str]:
        """What these networks wrote of a case from the files with this stamp, words of `OUTPUTS`."""
        record = self._record(case)
        return set(record["outputs"]) if record is not None and record["input"] == made_from else set()

    def write(self, segmentation: Segmentation, source: Path, made_from: Mapping[str, Any]) -> list[Path]:
        """Write all of a case, its record last; returns the files. What another input or network left is removed.

        Args:
            segmentation: its volume is named as the case.
            source: the file, folder or zip it was read from.
            made_from: `stamp` of the files in it, taken before they were read: one that was replaced since is another.
        """
        case = segmentation.volume.name
        record = self._record_path(case)
        words = self.words(source)
        made = {*self._made(case, made_from), *words}
        for word in set(read_record(record).get("outputs", ())) - made:
            self._file(case, word, source).unlink(missing_ok=True)
        record.unlink(missing_ok=True)
        files = self.files(case, source)
        for word, file in zip(words, files, strict=True):
            OUTPUTS[word][1](segmentation, file)
        structures = [asdict(one) for one in segmentation.statistics]
        origin = {"source": str(source), "input": dict(made_from), "outputs": sorted(made)}
        write_json(record, {"made_by": self.made_by, **origin, "structures": structures})
        return files

    def merge(self) -> dict[str, str]:
        """Write the tables of all cases that these networks finished here, by whichever machine; remove what killed
        runs left half-written.

        Tables that are there already are written again too, because they may describe labels that were replaced.

        Returns:
            For each heart that could not be measured the reason.
        """
        for folder in (self.folder, self.folder / "cases"):
            remove_temporaries(folder, STALE_S)
        failures: dict[str, str] = {}
        for _ in range(MOST_MERGES):  # another machine may finish a case, and write its tables, before ours are written
            known = self._finished()
            failures = self._write_tables()
            if known == self._finished():
                break
        return failures

    def _finished(self) -> set[tuple[str, int]]:
        """The records, and when they were written."""
        return {(path.name, path.stat().st_mtime_ns) for path in _records(self.folder)}

    def _write_tables(self) -> dict[str, str]:
        cases = []
        for path in _records(self.folder):
            record = self._record(path.stem)
            if record is not None:
                structures = [
                    StructureStatistics(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
                    for one in record["structures"]
                ]
                cases.append(CaseStatistics(path.stem, structures, Path(record["source"])))
        table = self.folder / "statistics.csv"
        if cases and ("statistics" in self.outputs or table.is_file()):
            write_statistics(table, cases)
        if not (self.cardiac or (self.folder / CARDIAC_FILES[0]).is_file()):
            return {}
        hearts, failures = cardiac_cases(cases)
        write_cardiac(self.folder, hearts)
        return failures if self.cardiac else {}

    def _record_path(self, case: str) -> Path:
        return self.folder / "cases" / f"{case}.json"

    def _record(self, case: str) -> dict[str, Any] | None:
        """The record of a case that these networks and settings made."""
        record = read_record(self._record_path(case))
        return record if record.get("made_by") == self.made_by else None


def _records(folder: str | Path) -> list[Path]:
    """The records in a folder of results, without those that are being written, which `Path.glob` finds too."""
    return sorted(path for path in (Path(folder) / "cases").glob("*.json") if not TEMPORARY.match(path.name))


def _file_name(case: str, word: str, source: Path) -> str:
    end = ".tif" if word == "picture" and ending(source, (".tif", ".tiff")) else OUTPUTS[word][0]
    return f"{case}{end}"


def results_in(folder: str | Path) -> set[Path]:
    """All files that were made of finished cases in a folder, by whatever network: they are no images to segment."""
    found = set()
    for path in _records(folder):
        record = read_record(path)
        for word in OUTPUTS.keys() & record.get("outputs", ()):
            found.add((Path(folder) / _file_name(path.stem, word, Path(record["source"]))).resolve())
    return found


def stamp(files: Sequence[Path]) -> dict[str, Any]:
    """What tells that an input is still the one it was: every file's content where it is small, else what the disk
    says of it."""
    digest, size = hashlib.sha256(), 0
    for file in files:
        found = file.stat()
        small = found.st_size <= SMALL
        content = sha256([file]) if small else f"{found.st_mtime_ns} {found.st_ino}"
        digest.update(f"{file.name}\0{found.st_size}\0{content}\0".encode("utf-8", "surrogateescape"))
        size += found.st_size
    return {"files": len(files), "bytes": size, "sha256": digest.hexdigest()}
