"""What the find page asks: facets out of the metadata's own schema, studies with counts, SQL, targets, the record of de-identification."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from mdm_wire.errors import Invalid, MdmError, NotFound
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword

from mdm_client.client import Client
from mdm_client.dicomweb.gateway import Gateway
from mdm_client.dicomweb.matching import Condition, Search
from mdm_client.dicomweb.records import IMAGES, LEVELS, STUDIES, Record, Site, Statement
from mdm_client.federation.query import query_sites
from mdm_client.name_syntax import Name

PAGE = 50
_ROWS = 1_000
_VALUES = 200
_TEXT = "StudyDescription"
_DEIDENTIFICATION = {"00120062": "removed", "00120063": "method", "00280303": "dates", "00280301": "burned_in"}
_CODES = "00120064"


@dataclass(frozen=True)
class Facet:
    """An attribute to choose by: `kind` is `values` or `dates`."""

    name: str
    label: str
    kind: str


class Finder:
    """Searches of the find page, over all sites."""

    def __init__(self, client: Client, gateway: Gateway) -> None:
        self._client = client
        self._gateway = gateway
        self._records = gateway.records

    def facets(self) -> dict[str, Any]:
        """Return the facets that the schemas of all sites offer, and the sites."""
        found: dict[str, Facet] = {}
        sites = self._records.sites()
        for site in sites:
            for level in LEVELS:
                for attribute in site.columns[level].values():
                    tag = tag_for_keyword(attribute.name)
                    if tag is None or attribute.name in found:
                        continue
                    kind = dictionary_VR(tag)
                    label = dictionary_description(tag)
                    if attribute.type == "date":
                        found[attribute.name] = Facet(attribute.name, label, "dates")
                    elif kind != "UI" and attribute.type in ("text", "varchar") and (attribute.indexed or kind == "AS"):
                        found[attribute.name] = Facet(attribute.name, label, "values")
        return {
            "facets": [vars(facet) for facet in found.values()],
            "sites": [site.name for site in sites],
            "bases": [site.base for site in sites],
            "failures": _shown(self._records.problems),
        }

    def search(self, filters: Mapping[str, Any], offset: int) -> dict[str, Any]:
        """Return a page of studies that meet the filters, and how many there are."""
        conditions = _conditions(filters)
        sites = self._chosen(filters)
        search = Search(conditions, PAGE, offset)
        records, failures = self._records.search(STUDIES, search, sites)
        summaries = self._records.summaries(records)
        counts, _ = self._records.each(lambda site: self._count(site, conditions), sites)
        return {
            "total": sum(itertools.chain.from_iterable(counts)),
            "offset": offset,
            "studies": [_study(record, summaries.get(record["study"])) for record in records],
            "failures": _shown(failures),
        }

    def counts(self, name: str, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the values of a facet with the number of studies that would be found with each, the other filters applied."""
        conditions = _conditions({key: value for key, value in filters.items() if key != name})
        if name == "site":
            counted, _ = self._records.each(lambda site: [(site.name, count) for count in self._count(site, conditions)])
        else:
            counted, _ = self._records.each(lambda site: self._count_values(site, name, conditions), self._chosen(filters))
        totals: dict[str, int] = {}
        for value, count in itertools.chain.from_iterable(counted):
            totals[value] = totals.get(value, 0) + count
        ordered = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))[:_VALUES]
        return [{"value": value, "count": count} for value, count in ordered if count]

    def _chosen(self, filters: Mapping[str, Any]) -> list[Site]:
        names = filters.get("site") or []
        return [site for site in self._records.sites() if not names or site.name in names]

    def _count(self, site: Site, conditions: Sequence[Condition]) -> list[int]:
        statement = Statement(site, STUDIES)
        for condition in conditions:
            statement.add(condition)
        return [int(row[0]) for row in self._records.rows(site, statement.sql(["COUNT(DISTINCT s.study)"]), statement.parameters)]

    def _count_values(self, site: Site, name: str, conditions: Sequence[Condition]) -> list[tuple[str, int]]:
        place = site.column(name, STUDIES)
        if place is None:
            return []
        statement = Statement(site, STUDIES)
        for condition in conditions:
            statement.add(condition)
        column = f"{statement.need(place[0])}.{place[1]}"
        sql = statement.sql([column, "COUNT(DISTINCT s.study)"], f"GROUP BY {column}")
        return [(str(value), int(count)) for value, count in self._records.rows(site, sql, statement.parameters) if value is not None]

    def query(self, sql: str) -> dict[str, Any]:
        """Return the first rows of a SELECT; with `{site}` in its text it goes to every site."""
        failures: Mapping[str, MdmError] = {}
        if "{site}" in sql:
            config = self._client.config
            named = {name: self._client.metadata_at(name) for name in config.metadata_sites}
            # Without [metadata_sites], or beside them, the sites that were found.
            sites = named | {site.name: site.metadata for site in self._records.sites() if not named or site.grid}
            with query_sites(sites, sql, timeout=60.0) as answer:
                columns = answer.columns
                rows = list(itertools.islice(itertools.chain.from_iterable(answer.batches()), _ROWS + 1))
                failures = answer.failures
        else:
            result = self._client.metadata.query(sql, 60.0)
            columns = result.columns
            rows = list(itertools.islice(result, _ROWS + 1))
            result.close()
        shown = [[value if isinstance(value, int | float | bool | None) else str(value) for value in row] for row in rows[:_ROWS]]
        return {
            "columns": [column.name for column in columns],
            "rows": shown,
            "more": len(rows) > _ROWS,
            "studies": self._studies_of([column.name for column in columns], rows[:_ROWS]),
            "failures": _shown(failures),
        }

    def _studies_of(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
        """Return the study of each row, by its column study, guid or lfn; empty where there is none."""
        lowered = [name.lower() for name in columns]
        if "study" in lowered:
            return [str(row[lowered.index("study")] or "") for row in rows]
        for column in ("guid", "series", "lfn"):
            if column in lowered:
                values = [str(row[lowered.index(column)] or "") for row in rows]
                found = self._by_column(column, values)
                return [found.get(value, "") for value in values]
        return []

    def _by_column(self, column: str, values: Sequence[str]) -> dict[str, str]:
        wanted = sorted({value for value in values if value})

        def ask(site: Site) -> list[tuple[str, str]]:
            statement = Statement(site, IMAGES)
            kind = site.columns[IMAGES][column].type
            statement.one_of(f"i.{column}", kind, wanted)
            columns = [f"i.{column}", "i.study"]
            sql = statement.sql(columns, f"GROUP BY {', '.join(columns)}")
            return [(str(value), str(study)) for value, study in self._records.rows(site, sql, statement.parameters)]

        return dict(itertools.chain.from_iterable(self._records.each(ask)[0])) if wanted else {}

    def studies_of(self, names: Sequence[Name]) -> list[str]:
        """Return the studies that LFNs and GUIDs lead to: an image's, or those at, above and below a directory.

        Raises:
            NotFound: STUDY_NOT_FOUND: a name leads to none.
        """
        found: dict[str, None] = {}
        for name in names:
            studies = self._by_guid(name.guid) if name.guid else self._by_lfn(name.lfn) if name.lfn else []
            if not studies:
                raise NotFound("STUDY_NOT_FOUND", f"{name}: leads to no study that you may see")
            found |= dict.fromkeys(studies)
        return list(found)

    def _by_guid(self, guid: UUID) -> list[str]:
        return list(self._by_column("guid", [str(guid)]).values())

    def _by_lfn(self, lfn: str) -> list[str]:
        above = ["/".join(lfn.split("/")[:count]) for count in range(2, lfn.count("/") + 2)]

        def ask(site: Site) -> list[str]:
            statement = Statement(site, STUDIES)
            statement.parameters = {"below": f"{lfn.replace('!', '!!').replace('%', '!%').replace('_', '!_').rstrip('/')}/%"}
            places = []
            for number, place in enumerate(above):
                statement.parameters[f"a{number}"] = place
                places.append(f":a{number}")
            tail = f"WHERE s.lfn LIKE :below ESCAPE '!' OR s.lfn IN ({', '.join(places)})"
            return [str(row[0]) for row in self._records.rows(site, statement.sql(["s.study"], tail), statement.parameters)]

        return list(itertools.chain.from_iterable(self._records.each(ask)[0]))

    def deidentification(self, study: str) -> dict[str, Any]:
        """Return what the header of one image of a study says about its de-identification, and which elements were emptied."""
        instance, _ = self._gateway.sample(study)
        header = json.loads(instance.header)
        found: dict[str, Any] = {name: _first(header, tag) for tag, name in _DEIDENTIFICATION.items()}
        found["codes"] = [
            {"code": _first(item, "00080100"), "scheme": _first(item, "00080102"), "meaning": _first(item, "00080104")}
            for item in header.get(_CODES, {}).get("Value", ())
        ]
        found["empty"] = [dictionary_description(int(tag, 16)) for tag in _empty(header)]
        return found


def _conditions(filters: Mapping[str, Any]) -> tuple[Condition, ...]:
    """Return the filters of the page as conditions.

    Raises:
        Invalid: FILTER_MALFORMED.
    """
    found = []
    try:
        for name, value in filters.items():
            if not value or name == "site":
                continue
            if name == "text":
                found.append(Condition(_TEXT, (f"*{value}*",), wild=True))
            elif isinstance(value, Mapping):
                first, last = (date.fromisoformat(value[key]) if value.get(key) else None for key in ("from", "to"))
                found.append(Condition(str(name), dates=(first, last)))
            else:
                found.append(Condition(str(name), tuple(str(part) for part in value)))
    except (ValueError, TypeError, AttributeError) as error:
        raise Invalid("FILTER_MALFORMED", "a filter is a list of values, or dates from and to") from error
    return tuple(found)


def _study(record: Record, summary: tuple[list[str], int, int, list[str]] | None) -> dict[str, Any]:
    modalities, series, images, parts = summary or ([], 0, 0, [])
    return {
        "study": record["study"],
        "patient": record.get("patient"),
        "site": record["site"],
        "date": str(record["StudyDate"]) if record.get("StudyDate") else "",
        "description": record.get("StudyDescription") or "",
        "sex": record.get("PatientSex") or "",
        "age": record.get("PatientAge") or "",
        "modalities": modalities,
        "parts": parts,
        "series": series,
        "images": images,
        "lfn": record.get("lfn"),
    }


def _shown(failures: Mapping[str, MdmError]) -> dict[str, str]:
    return {site: error.message for site, error in failures.items()}


def _first(document: Mapping[str, Any], tag: str) -> Any:
    values = document.get(tag, {}).get("Value") or [None]
    return values[0]


def _empty(header: Mapping[str, Any]) -> Iterator[str]:
    """Yield the public elements that are there without a value."""
    for tag, element in header.items():
        if set(element) == {"vr"} and int(tag[:4], 16) % 2 == 0:
            try:
                dictionary_VR(int(tag, 16))
            except KeyError:
                continue
            yield tag
