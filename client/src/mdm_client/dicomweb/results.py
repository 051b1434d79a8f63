"""Results in DICOM that users gave back to a study: segmentations, structure sets, reports, as series of it."""

from collections.abc import Sequence
from typing import Any

from mdm_client.dicomweb.records import Record, Records, Site

#: Of the collection of results, which a site may lack.
RESULTS = "results"
_NAMES = ("guid", "lfn", "patient", "study", "series", "Modality", "SOPClassUID", "SOPInstanceUID", "SeriesDescription")
#: What a record of an instance has of a result; the rest describes its series.
_OF_SERIES = frozenset({"SeriesDescription"})


def results_of(records: Records, study: str) -> list[Record]:
    """Return records of the results in DICOM of a study, those that the caller may read, in order of series and GUID."""

    def ask(site: Site) -> list[Any]:
        columns = ", ".join(_NAMES)
        table = f'"{site.base}/{RESULTS}"'
        sql = f"SELECT {columns} FROM {table} WHERE study = :study AND SOPInstanceUID IS NOT NULL ORDER BY series, guid"  # noqa: S608 - values are parameters
        rows = records.rows(site, sql, {"study": study})
        return [{**dict(zip(_NAMES, row, strict=True)), "site": site.name, "grid": site.grid} for row in rows]

    sites = [site for site in records.sites() if site.has_results]
    answers, _ = records.each(ask, sites) if sites else ([], {})
    return [record for answer in answers for record in answer if record["series"]]


def instances(results: Sequence[Record]) -> list[Record]:
    """Return records of results as those of images."""
    return [{name: value for name, value in record.items() if name not in _OF_SERIES} for record in results]


def series(results: Sequence[Record]) -> list[Record]:
    """Return records of the series of results."""
    found: dict[str, Record] = {}
    for record in results:
        names = ("patient", "study", "series", "Modality", "SeriesDescription", "site", "grid")
        one = found.setdefault(str(record["series"]), {name: record[name] for name in names} | {"NumberOfSeriesRelatedInstances": 0})
        one["NumberOfSeriesRelatedInstances"] += 1
    return list(found.values())
