"""The folder that results are written to: what is made of a case, what is finished, and by which network.

predict.json            networks and settings that made the results; others are refused
cases/<case>.json       what is made of a case, and from what input: written before its files; its measures are added
                        once they are whole, and only then it is finished
<case>.nii.gz, ...      see OUTPUTS
statistics.csv          of all finished cases
cardiac.csv, .md        of all hearts among them
"""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mamba_unet.files import STALE_S, TEMPORARY, read_record, remove_temporaries, sha256, write_json, write_json_once
from mamba_unet.inference.jobs import Job
from mamba_unet.inference.segmentation import Segmentation
from mamba_unet.measures.cardiac import CARDIAC_FILES, cardiac_cases, heart_structures, write_cardiac
from mamba_unet.measures.statistics import CaseStatistics, StructureStatistics, write_statistics
from mamba_unet.volumes.formats import PICTURES, TIFF, UnreadableError, ending

AUTO = "auto"
MOST_MERGES = 10  # of tables, while other machines go on
# files of a folder beside those of its cases, of this module and of those that write failures and who did what
TABLES = ("statistics.csv", *CARDIAC_FILES)
RECORDS = ("predict.json", *TABLES, "failures*.json", "cluster.json", "cluster.md")
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
        overwrite: redo finished cases, and replace whatever is there.

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
        overwrite: bool = False,
    ) -> None:
        if unknown := sorted(set(outputs) - {AUTO, *OUTPUTS}):
            raise ValueError(f"unknown output {', '.join(unknown)}; expected some of {', '.join((AUTO, *OUTPUTS))}")
        if not outputs:
            raise ValueError(f"nothing to write; expected at least one of {', '.join(OUTPUTS)}")
        if cardiac:
            heart_structures(class_names)
        self.folder, self.cardiac, self.made_by, self.overwrite = Path(folder), cardiac, dict(made_by), overwrite
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

    def check(self, job: Job) -> None:
        """Raise UnreadableError if a case cannot be written, to know it before a network runs: no disk takes the names
        of its files, they are of another input of this name, or one was changed since, such as labels that a person
        corrected."""
        paths = [*self.files(job.name, job.source), self._record_path(job.name)]
        longest = max(paths, key=lambda file: len(os.fsencode(file.name)))
        if (size := len(os.fsencode(longest.name))) > LONGEST_NAME:
            raise UnreadableError(
                job.source, f"{longest.name[:20]}...{longest.name[-30:]} would have a name of {size} bytes, and "
                f"{LONGEST_NAME} are allowed; rename the input"
            )  # fmt: skip
        if self.overwrite:
            return
        record = _recorded(self._record_path(job.name))
        if record and _moved(record, job) and job.inputs and record["input"] != stamp(job.inputs):
            raise UnreadableError(
                job.source, f"{self.folder} holds the result of {record['source']}, another image, under the name "
                f"{job.name!r}; rename one, choose another folder (--out), or replace the result with --overwrite"
            )  # fmt: skip
        for file, digest in _outputs(self.folder, job.name, record).values():
            if digest and file.is_file() and sha256([file]) != digest:
                raise UnreadableError(
                    job.source, f"{file} was changed after it was written, and what is asked for now would not fit it; "
                    "move it away, choose another folder (--out), or replace it with --overwrite"
                )  # fmt: skip

    def claim(self, jobs: Sequence[Job]) -> None:
        """Make sure that these cases can be written here, before anything is.

        Raises:
            ValueError: two cases would write one file, an output would replace an input, or the folder holds results
                of other networks or settings, or files that this did not write.
        """
        inputs = {job.source.resolve() for job in jobs}
        writers: dict[Path, str] = {}
        for job in jobs:
            for file in self.files(job.name, job.source):
                if (other := writers.setdefault(file, job.name)) != job.name:
                    raise ValueError(f"{other} and {job.name} would both be written as {file.name}; predict them apart")
                if file.resolve() in inputs:
                    raise ValueError(f"{file} is an input and would be overwritten; choose another folder (--out)")
        described = self.folder / "predict.json"
        if not self.overwrite:
            if before := read_record(described):
                self._refuse_other(before)
            for job in jobs:
                self._refuse_foreign(job, described=bool(before))
            if not before and not _records(self.folder):  # tables of somebody else
                self._refuse_unnamed([self.folder / name for name in TABLES])
        if self.overwrite or described.is_file():
            write_json(described, self.made_by)
        elif not write_json_once(described, self.made_by):  # by another process, which was faster
            self._refuse_other(read_record(described))

    def _refuse_foreign(self, job: Job, described: bool) -> None:
        """Refuse to replace files that no record names.

        A record that cannot be read was of the files that are there. Where the folder is not `described`, a record of
        other networks is none.
        """
        # asked before the record, which is written before they are; no method of Path: a name may be too long
        unnamed = [file for file in self.files(job.name, job.source) if os.path.exists(file)]
        path = self._record_path(job.name)
        record = _recorded(path) if os.path.exists(path) else {}
        if record and (described or record["made_by"] == self.made_by):
            named = {file for file, _ in _outputs(self.folder, job.name, record).values()}
            unnamed = [file for file in unnamed if file not in named]
        elif not record and os.path.exists(path):
            unnamed = []
        self._refuse_unnamed(unnamed)

    @staticmethod
    def _refuse_unnamed(files: Sequence[Path]) -> None:
        if there := next((file for file in files if os.path.exists(file)), None):
            raise ValueError(
                f"{there} is there already, and nothing says what made it; choose another folder (--out), or "
                "replace such files with --overwrite"
            )

    def _refuse_other(self, before: Mapping[str, Any]) -> None:
        for what in {**self.made_by, **before}:
            if before.get(what) != self.made_by.get(what):
                raise ValueError(
                    f"{self.folder} holds results made with {what} {before.get(what)}, now it is "
                    f"{self.made_by.get(what)}; choose another folder (--out), or replace them with --overwrite"
                )

    def reserves(self, path: Path, jobs: Collection[Job]) -> bool:
        """Whether this is the name of a result of these cases, of a record or of a table here, written yet or not."""
        path, folder = path.resolve(), self.folder.resolve()
        if folder / "cases" in (path, *path.parents):
            return True
        results = {file.name for job in jobs for file in self.files(job.name, job.source)}
        return path.parent == folder and (path.name in results or any(path.match(name) for name in RECORDS))

    def outdated(self, job: Job) -> list[Path]:
        """What is here of a case that was made of its input as it was before."""
        record, now = {}, {}
        with suppress(OSError):  # a name that no disk takes; an input that is gone
            record = _recorded(self._record_path(job.name))
            now = stamp(job.inputs)
        if not record or _moved(record, job) or record["input"] == now:
            return []
        return [file for file, _ in _outputs(self.folder, job.name, record).values() if file.is_file()]

    def finished(self, job: Job) -> bool:
        """Whether all that is wanted of a case was made by these networks from these very files."""
        words = set(self.words(job.source))
        try:
            return not self.overwrite and self._made(job.name, stamp(job.inputs)).keys() >= words
        except OSError:  # the input is gone: reading it will say so
            return False

    def _made(self, case: str, made_from: Mapping[str, Any]) -> dict[str, str]:
        """What these networks wrote of a case from the files with this stamp, and is still there: word of `OUTPUTS` ->
        SHA-256 of its file, as `_outputs` gives it."""
        record = self._record(case)
        if record is None or record["input"] != made_from:
            return {}
        found = _outputs(self.folder, case, record)
        return {word: digest for word, (file, digest) in found.items() if os.path.isfile(file)}

    def write(self, segmentation: Segmentation, source: Path, made_from: Mapping[str, Any]) -> list[Path]:
        """Write what is not made yet of a case; returns all files that are wanted. What another input or network left
        is removed.

        The record names the files before they are written, so that a run after a kill knows them as this one's.

        Args:
            segmentation: its volume is named as the case.
            source: the file, folder or zip it was read from.
            made_from: `stamp` of the files in it, taken before they were read: one that was replaced since is another.
        """
        case = segmentation.volume.name
        path = self._record_path(case)
        files = {word: self._file(case, word, source) for word in self.words(source)}
        before, made = _outputs(self.folder, case, _recorded(path)), self._made(case, made_from)
        todo = {
            word: file
            for word, file in files.items()
            if self.overwrite or word not in made or word == "statistics"  # they hold what the record will
        }
        kept = {self._file(case, word, source) for word in made | todo}
        record = {"made_by": self.made_by, "source": os.path.abspath(source), "input": dict(made_from)}
        begun = {word: digest for word, (_, digest) in before.items()} | dict.fromkeys(todo, "")
        write_json(path, {**record, "outputs": begun})
        for file in {file for file, _ in before.values()} - kept:
            file.unlink(missing_ok=True)
        for word, file in todo.items():
            OUTPUTS[word][1](segmentation, file)
        made |= {word: sha256([file]) for word, file in todo.items()}
        structures = [asdict(one) for one in segmentation.statistics]
        write_json(path, {**record, "outputs": made, "structures": structures})
        return list(files.values())

    def merge(self, without: Collection[str] = ()) -> dict[str, str]:
        """Write the tables of all cases that these networks finished here, by whichever machine; remove what killed
        runs left half-written.

        Tables that are there already are written again too, because they may describe labels that were replaced; of no
        case they are removed.

        Args:
            without: cases to leave out.

        Returns:
            For each heart that could not be measured the reason.
        """
        for folder in (self.folder, self.folder / "cases"):
            remove_temporaries(folder, STALE_S)
        failures: dict[str, str] = {}
        for _ in range(MOST_MERGES):  # another machine may finish a case, and write its tables, before ours are written
            known = self._finished()
            failures = self._write_tables(without)
            if known == self._finished():
                break
        return failures

    def _finished(self) -> set[tuple[str, int]]:
        """The records, and when they were written."""
        return {(path.name, path.stat().st_mtime_ns) for path in _records(self.folder)}

    def _write_tables(self, without: Collection[str]) -> dict[str, str]:
        cases, records = [], _records(self.folder)
        for path in records:
            record = self._record(path.stem)
            if record is not None and path.stem not in without:
                structures = [
                    StructureStatistics(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
                    for one in record["structures"]
                ]
                cases.append(CaseStatistics(path.stem, structures, Path(record["source"])))
        table = self.folder / "statistics.csv"
        if cases and ("statistics" in self.outputs or table.is_file()):
            write_statistics(table, cases)
        elif records and not cases:
            table.unlink(missing_ok=True)
        if not (self.cardiac or (self.folder / CARDIAC_FILES[0]).is_file()):
            return {}
        hearts, failures = cardiac_cases(cases)
        write_cardiac(self.folder, hearts)
        return failures if self.cardiac else {}

    def _record_path(self, case: str) -> Path:
        return self.folder / "cases" / f"{case}.json"

    def _record(self, case: str) -> dict[str, Any] | None:
        """The record of a case that these networks and settings finished."""
        record = _recorded(self._record_path(case))
        return record if "structures" in record and record["made_by"] == self.made_by else None


def _records(folder: str | Path) -> list[Path]:
    """The records in a folder of results, without those that are being written, which `Path.glob` finds too."""
    return sorted(path for path in (Path(folder) / "cases").glob("*.json") if not TEMPORARY.match(path.name))


def _moved(record: Mapping[str, Any], job: Job) -> bool:
    return Path(record["source"]).resolve() != job.source.resolve()


def _file_name(case: str, word: str, source: Path) -> str:
    end = ".tif" if word == "picture" and ending(source, TIFF) else OUTPUTS[word][0]
    return f"{case}{end}"


def _recorded(path: Path) -> dict[str, Any]:
    """What a record says of a case, begun or finished, by whatever network; empty where none can be read."""
    record = read_record(path)
    return record if record.keys() >= {"made_by", "source", "input", "outputs"} else {}


def _outputs(folder: str | Path, case: str, record: Mapping[str, Any]) -> dict[str, tuple[Path, str]]:
    """The files that a record names: word of `OUTPUTS` -> file and SHA-256, empty where it is not known: of a case that
    was only begun, or made by an earlier version."""
    said = record.get("outputs", {})
    digests = said if isinstance(said, dict) else dict.fromkeys(said, "")
    return {
        word: (Path(folder) / _file_name(case, word, Path(record["source"])), digest)
        for word, digest in digests.items()
        if word in OUTPUTS
    }


def results_in(folder: str | Path) -> set[Path]:
    """All files that were made of cases in a folder, by whatever network: they are no images to segment."""
    found = set()
    for path in _records(folder):
        found |= {file.resolve() for file, _ in _outputs(folder, path.stem, _recorded(path)).values()}
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
