"""Masks of the series among the files of a run: which files are of one series, and a worker's answer about each series."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mdm_deid.encoding.part10 import open_part10
from mdm_deid.outcome import Malformed, ProfileError
from mdm_deid.pixels.image import SERIES, read_image
from mdm_deid.rules.facts import read_facts
from mdm_deid.rules.profile import Profile
from mdm_deid.rules.rule import CLEAN_FACES

if TYPE_CHECKING:
    from mdm_deid.faces.rule import FaceRule

#: Opens a file that is named.
OpenFile = Callable[[Path], memoryview]


@dataclass(frozen=True)
class SeriesQuestion:
    """Asks of which series a file is, if it may show a face."""

    number: int
    path: Path


@dataclass(frozen=True)
class SeriesAnswer:
    """The Series Instance UID of a file that may show a face; None of another, "" of one that names none."""

    number: int
    series: str | None


@dataclass(frozen=True)
class FaceQuestion:
    """Asks for the mask of a series; `number` is that of one of its files."""

    number: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class FaceAnswer:
    """The mask of a series, or why there is none."""

    number: int
    rule: "FaceRule | None" = field(default=None, repr=False)
    detail: str = ""


def check_installed(profile: Profile) -> None:
    """Return if masks can be made where the profile asks for them.

    Raises:
        ProfileError: NumPy is not installed.
    """
    if CLEAN_FACES in profile.options:
        try:
            import numpy  # noqa: F401 - only whether it is there
        except ImportError:
            raise ProfileError(f"the option {CLEAN_FACES} needs NumPy: pip install 'mdm-deid[faces]'") from None


def find_series(question: SeriesQuestion, open_file: OpenFile) -> SeriesAnswer:
    """Return of which series a file is. Never raises."""
    try:
        opened = open_part10(open_file(question.path))
        if not read_facts(opened.data, opened.start, opened.encoding).may_show_face:
            return SeriesAnswer(question.number, None)
        return SeriesAnswer(question.number, read_image(opened.data, opened.start, opened.encoding).texts.get(SERIES, ""))
    # Why it cannot be read is reported when it is de-identified.
    except Exception:
        return SeriesAnswer(question.number, None)


def find_face(question: FaceQuestion, open_file: OpenFile) -> FaceAnswer:
    """Return the mask of a series. Never raises: what is uncertain has none."""
    # Brings NumPy.
    from mdm_deid.faces.series import make_rule, read_slice
    from mdm_deid.outcome import FaceUnmasked

    try:
        return FaceAnswer(question.number, make_rule(read_slice(open_file(path)) for path in question.paths))
    except FaceUnmasked as error:
        return FaceAnswer(question.number, detail=error.detail)
    except (Malformed, OSError):
        return FaceAnswer(question.number, detail="unreadable")
    except MemoryError:
        return FaceAnswer(question.number, detail="out_of_memory")
    except Exception as error:
        return FaceAnswer(question.number, detail=f"defect_{type(error).__name__}")


def files_of_series(answers: Iterable[SeriesAnswer]) -> dict[int, tuple[int, ...]]:
    """Return for each series, by the number of its first file, the numbers of all of them."""
    files: defaultdict[str, list[int]] = defaultdict(list)
    for answer in answers:
        if answer.series:
            files[answer.series].append(answer.number)
    return {min(numbers): tuple(sorted(numbers)) for numbers in files.values()}
