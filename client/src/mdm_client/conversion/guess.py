"""What an MR volume is, in BIDS' words, by its sidecar: first what its names say, then its times."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Volumes of a series that make it one of time rather than a repeated measurement.
_MANY_VOLUMES = 10
_NAMES = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceDetails", "PulseSequenceName")
#: The first pattern that a name meets decides. Between letters and digits of T1, T2 and PD there may be a sign.
_PATTERNS = (
    (re.compile(r"locali[sz]er|scout|survey|3.?plane|plan.?scan|aahead|calibration|\bcal\b"), ""),
    (re.compile(r"field.?map|b0.?map|gre_field"), ""),
    (re.compile(r"flair|dark.?fluid|tirm"), "FLAIR"),
    (re.compile(r"tof|angio|\bmra\b"), "angio"),
    (re.compile(r"t2[ _-]?star|t2\*|\bswi\b|medic|hemo"), "T2starw"),
    (re.compile(r"mp.?rage|mp.?2?rage|bravo|\btfl3d|t1[ _-]?w?|\bspgr\b|\bir.?fspgr"), "T1w"),
    (re.compile(r"t2[ _-]?w?|space|\bcube\b|vista"), "T2w"),
    (re.compile(r"\bpd[ _-]?w?\b|proton"), "PDw"),
)


@dataclass(frozen=True)
class Guess:
    """The data type (a folder) and suffix of a volume, or why it is left out; `task` for functional series."""

    kind: str = ""
    suffix: str = ""
    task: str = ""
    left_out: str = ""


def guess(sidecar: Mapping[str, Any], volumes: int, b_values: Sequence[float], mark: str) -> Guess:
    """Return what a volume is. `volumes` is its fourth dimension; `mark` what dcm2niix put after its name."""
    if sidecar.get("Modality") != "MR":
        return Guess(left_out=f"{sidecar.get('Modality') or 'its modality'} is not MR, which is all that is put into BIDS here")
    if mark:
        return Guess(left_out=f"one of several volumes of its series ({mark.lstrip('_')}: echoes, phases, orientations or copies)")
    if b_values:
        if volumes == len(b_values) and max(b_values) > 0:
            return Guess("dwi", "dwi")
        return Guess(left_out="diffusion without a b-value above zero")
    if "DERIVED" in sidecar.get("ImageType", ()):
        return Guess(left_out="derived from other images")
    if volumes > 1:
        if volumes >= _MANY_VOLUMES and _is_epi(sidecar) and sidecar.get("RepetitionTime"):
            return Guess("func", "bold", task="unnamed")
        return Guess(left_out=f"{volumes} volumes that are neither diffusion nor an echo-planar series of {_MANY_VOLUMES} or more")
    if _is_epi(sidecar):
        return Guess(left_out="a single echo-planar volume")
    suffix = _by_name(sidecar)
    if suffix == "":
        return Guess(left_out="its names say that it is a localizer, a calibration or a field map")
    suffix = suffix or _by_times(sidecar)
    return Guess("anat", suffix) if suffix else Guess(left_out="neither its names nor its times say which contrast it has")


def _is_epi(sidecar: Mapping[str, Any]) -> bool:
    names = " ".join(str(sidecar.get(key, "")) for key in ("ScanningSequence", "PulseSequenceType", "SequenceName")).lower()
    return "ep" in re.split(r"[\\_ ]", names) or "epi" in names or "epfid" in names


def _by_name(sidecar: Mapping[str, Any]) -> str | None:
    """Return the suffix that names say: empty for what BIDS' anat has no place for, None where they say nothing."""
    text = " ".join(str(sidecar.get(key, "")) for key in _NAMES).lower()
    return next((suffix for pattern, suffix in _PATTERNS if pattern.search(text)), None)


def _by_times(sidecar: Mapping[str, Any]) -> str:
    """Return the suffix that echo, repetition and inversion time (seconds) say; empty where they say nothing certain."""
    echo, repetition = (_number(sidecar.get(key)) for key in ("EchoTime", "RepetitionTime"))
    inversion = _number(sidecar.get("InversionTime")) or 0.0
    if echo is None or repetition is None:
        return ""
    if inversion > 0:
        if inversion > 1.5 and echo > 0.07:
            return "FLAIR"
        return "T1w" if inversion < 1.5 and echo < 0.01 else ""
    if echo < 0.012 and repetition < 0.05 and "GR" in str(sidecar.get("ScanningSequence", "")):
        return "T1w"
    if "SE" not in str(sidecar.get("ScanningSequence", "")):
        return ""
    if repetition < 0.9:
        return "T1w" if echo < 0.03 else ""
    if repetition > 2:
        return "T2w" if echo > 0.06 else "PDw" if echo < 0.04 else ""
    return ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
