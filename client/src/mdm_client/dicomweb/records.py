"""Metadata records of all sites: which collections there are, and queries over studies, series and images."""

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from mdm_wire.errors import MdmError, NotFound

from mdm_client.client import Client
from mdm_client.dicomweb.matching import Condition, Search
from mdm_client.metadata.client import MetadataClient
from mdm_client.metadata.collections import Attribute

Record = dict[str, Any]
STUDIES, SERIES, IMAGES = "studies", "series", "images"
LEVELS = (STUDIES, SERIES, IMAGES)
_ALIAS = {STUDIES: "s", SERIES: "e", IMAGES: "i"}
_KEYS = {STUDIES: "study", SERIES: "series", IMAGES: "guid"}
#: Attributes that records have under a name of the grid's, with the levels that have them.
_GRID_NAMES = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "PatientID": "patient", "PatientName": "patient"}
_FRESH_SECONDS = 60.0
_BATCH = 1_000


@dataclass(frozen=True)
class Site:
    """A site's collections: the path above them, where they are asked, and the attributes of each; whether it has results of users.

    `grid` names the site of `[sites]` whose grid has the files; "" is the grid of the configuration itself.
    """

    name: str
    base: str
    metadata: MetadataClient
    columns: Mapping[str, Mapping[str, Attribute]]
    has_results: bool = False
    grid: str = ""

    def table(self, level: str) -> str:
        """Return a collection as FROM names it."""
        return f'"{self.base}/{level}" AS {_ALIAS[level]}'

    def column(self, keyword: str, level: str) -> tuple[str, str] | None:
        """Return the level and attribute that hold a DICOM attribute, looked for from `level` upwards, then below; None if none does."""
        if keyword == "ModalitiesInStudy":
            return SERIES, "Modality"
        name = _GRID_NAMES.get(keyword, keyword)
        place = LEVELS.index(level)
        for candidate in (*reversed(LEVELS[: place + 1]), *LEVELS[place + 1 :]):
            if name in self.columns[candidate]:
                return candidate, name
        return None


class Statement:
    """A SELECT under construction: conditions and their parameters, and the levels that they need joined."""

    def __init__(self, site: Site, level: str) -> None:
        self.site = site
        self.level = level
        self.parameters: dict[str, Any] = {}
        self._where: list[str] = []
        self._levels = {level}

    def need(self, level: str) -> str:
        """Join a level and return its alias."""
        self._levels.add(level)
        return _ALIAS[level]

    def add(self, condition: Condition) -> None:
        """Demand a condition; one on what no record holds is met by none."""
        found = self.site.column(condition.keyword, self.level)
        if found is None:
            self._where.append("1 = 0")
            return
        level, name = found
        column = f"{self.need(level)}.{name}"
        kind = self.site.columns[level][name].type
        if condition.dates is not None:
            for operator, day in zip((">=", "<="), condition.dates, strict=True):
                if day is not None:
                    self._where.append(f"{column} {operator} {self._parameter(day.isoformat())}")
        elif condition.wild:
            tests = [f"{column} ILIKE {self._parameter(_like(value))} ESCAPE '!'" for value in condition.values]
            self._where.append(f"({' OR '.join(tests)})")
        else:
            self.one_of(column, kind, condition.values)

    def one_of(self, column: str, kind: str, values: Sequence[str]) -> None:
        """Demand that a column has one of these values."""
        if kind in ("int", "float", "numeric"):
            values = [value for value in values if value.lstrip("-").replace(".", "", 1).isdecimal()]
        if not values:
            self._where.append("1 = 0")
            return
        convert: Callable[[str], Any] = int if kind == "int" else float if kind in ("float", "numeric") else str
        names = [self._parameter(convert(value)) for value in values]
        self._where.append(f"{column} IN ({', '.join(names)})")

    def sql(self, columns: Sequence[str], tail: str = "", *, distinct: bool = False) -> str:
        """Return the text of the SELECT."""
        tables = [self.site.table(self.level)]
        alias = _ALIAS[self.level]
        for level in LEVELS:
            if level in self._levels and level != self.level:
                key = "series" if {level, self.level} == {SERIES, IMAGES} else "study"
                tables.append(f"JOIN {self.site.table(level)} ON {_ALIAS[level]}.{key} = {alias}.{key}")
        where = f" WHERE {' AND '.join(self._where)}" if self._where else ""
        several = distinct and len(self._levels) > 1
        return f"SELECT {'DISTINCT ' if several else ''}{', '.join(columns)} FROM {' '.join(tables)}{where} {tail}".strip()  # noqa: S608 - values are parameters

    def _parameter(self, value: Any) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"


class Records:
    """Queries over every site that the configuration names, each under the caller's own rights."""

    def __init__(self, client: Client, timeout: float = 60.0) -> None:
        self._client = client
        self._timeout = timeout
        self._lock = threading.Lock()
        self._sites: list[Site] = []
        self._found_at = 0.0
        self._problems: dict[str, MdmError] = {}
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="records")

    def sites(self) -> list[Site]:
        """Return the sites whose collections the caller may see, found anew each minute.

        Raises:
            MdmError: no metadata service answers.
        """
        with self._lock:
            if not self._sites or time.monotonic() - self._found_at > _FRESH_SECONDS:
                self._sites = self._discover()
                self._found_at = time.monotonic()
            return self._sites

    @property
    def problems(self) -> Mapping[str, MdmError]:
        """The services that did not answer when sites were looked for last, and why."""
        return dict(self._problems)

    def _discover(self) -> list[Site]:
        config = self._client.config
        services: list[tuple[str, Callable[[], MetadataClient]]] = [("", lambda: self._client.metadata)]
        for name, addresses in config.metadata_sites.items():
            if set(addresses) != set(config.metadata):
                services.append((name, partial(self._client.metadata_at, name)))
        services += [(name, partial(self._client.metadata_of, name)) for name in config.sites]
        found: dict[str, tuple[str, Site]] = {}
        problems: dict[str, MdmError] = {}
        asked = [(name, self._pool.submit(self._collections, name, service)) for name, service in services]
        for service, future in asked:
            try:
                sites = future.result()
            except MdmError as error:
                problems[service or "metadata"] = error
                continue
            for site in sites:
                # A copy of another site's records is asked only where that site itself is not.
                if site.base not in found or site.name == service:
                    found[site.base] = (service, site)
        self._problems = problems
        if not found and len(problems) == len(services):
            raise next(iter(problems.values()))
        return [site for _, site in sorted(found.values(), key=lambda pair: pair[1].base)]

    def _collections(self, name: str, service: Callable[[], MetadataClient]) -> list[Site]:
        metadata = service()
        grids = self._client.config.sites
        levels: dict[str, dict[str, dict[str, Attribute]]] = {}
        with_results: set[str] = set()
        for collection in metadata.collections.walk("/"):
            base, _, level = collection.path.rpartition("/")
            if level == "results" and {"study", "SOPInstanceUID"} <= {attribute.name for attribute in collection.attributes}:
                with_results.add(base)
            if level in LEVELS:
                levels.setdefault(base, {})[level] = {attribute.name: attribute for attribute in collection.attributes}

        def grid(site: str) -> str:
            return next((known for known in (site, name) if known in grids), "")

        return [
            Site(base.rpartition("/")[2], base, metadata, columns, base in with_results, grid(base.rpartition("/")[2]))
            for base, columns in levels.items()
            if len(columns) == len(LEVELS) and all(_KEYS[level] in columns[level] for level in LEVELS)
        ]

    def rows(self, site: Site, sql: str, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query at one site."""
        yield from site.metadata.query(sql, self._timeout, parameters=parameters)

    def each(self, ask: Callable[[Site], list[Any]], sites: Sequence[Site] | None = None) -> tuple[list[list[Any]], dict[str, MdmError]]:
        """Return what `ask` answers of each site, asked at once, and the sites that failed; a site without rights has no rows.

        Raises:
            MdmError: every site failed.
        """
        asked = [(site, self._pool.submit(ask, site)) for site in (self.sites() if sites is None else sites)]
        answers: list[list[Any]] = []
        failures = self.problems
        for site, future in asked:
            try:
                answers.append(future.result())
            except NotFound:  # collections that are not for the caller are as if they were not there
                answers.append([])
            except MdmError as error:
                failures = {**failures, site.name: error}
        if asked and not answers:
            raise next(iter(failures.values()))
        return answers, dict(failures)

    def search(self, level: str, search: Search, sites: Sequence[Site] | None = None) -> tuple[list[Record], dict[str, MdmError]]:
        """Return records of a level that meet a search, newest studies first, and the sites that failed.

        Each record has the attributes of its level's collection, `site` and `grid`.
        """
        upto = search.offset + search.limit
        answers, failures = self.each(lambda site: self._level(site, level, search.conditions, upto), sites)
        merged = heapq.merge(*answers, key=lambda record: record["_order"])
        return list(merged)[search.offset : upto], failures

    def _level(self, site: Site, level: str, conditions: Iterable[Condition], upto: int) -> list[Record]:
        statement = Statement(site, level)
        for condition in conditions:
            statement.add(condition)
        names = list(site.columns[level])
        alias = _ALIAS[level]
        order = {STUDIES: ["StudyDate DESC NULLS LAST", "study"], SERIES: ["study", "SeriesNumber", "series"]}.get(
            level, ["series", "InstanceNumber", "guid"]
        )
        order = [part for part in order if part.split()[0] in site.columns[level]]
        tail = f"ORDER BY {', '.join(f'{alias}.{part}' for part in order)} LIMIT {upto}"
        sql = statement.sql([f"{alias}.{name}" for name in names], tail, distinct=True)
        records = [dict(zip(names, row, strict=True)) for row in self.rows(site, sql, statement.parameters)]
        for record in records:
            record["site"], record["grid"] = site.name, site.grid
            record["_order"] = _order(level, record)
        return records

    def summaries(self, studies: Sequence[Record]) -> dict[str, tuple[list[str], int, int, list[str]]]:
        """Return modalities, counts of series and of instances, and body parts of studies, by UID."""
        found: dict[str, tuple[set[str], list[int], set[str]]] = {}

        def ask(site: Site) -> list[Any]:
            uids = [str(study["study"]) for study in studies if study["site"] == site.name]
            rows: list[Any] = []
            for start in range(0, len(uids), _BATCH):
                statement = Statement(site, SERIES)
                statement.one_of("e.study", "text", uids[start : start + _BATCH])
                part = "e.BodyPartExamined" if "BodyPartExamined" in site.columns[SERIES] else "e.Modality"
                columns = ["e.study", "e.Modality", part, "COUNT(*)", "SUM(e.NumberOfSeriesRelatedInstances)"]
                rows += self.rows(site, statement.sql(columns, f"GROUP BY e.study, e.Modality, {part}"), statement.parameters)
            return rows

        for rows in self.each(ask)[0] if studies else ():
            for study, modality, part, series, instances in rows:
                modalities, counts, parts = found.setdefault(study, (set(), [0, 0], set()))
                modalities.update({modality} - {None})
                parts.update({part} - {None, modality})
                counts[0] += int(series)
                counts[1] += int(instances or 0)
        return {study: (sorted(m), c[0], c[1], sorted(p)) for study, (m, c, p) in found.items()}

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _order(level: str, record: Record) -> tuple[Any, ...]:
    if level == STUDIES:
        day = record.get("StudyDate")
        return (day is None, -day.toordinal() if day is not None else 0, record["study"])
    number = record.get("SeriesNumber" if level == SERIES else "InstanceNumber")
    group = record["study"] if level == SERIES else record["series"]
    return (group, number is None, number or 0, str(record[_KEYS[level]]))


def _like(value: str) -> str:
    """Return DICOM's wildcards as those of LIKE."""
    escaped = value.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return escaped.replace("*", "%").replace("?", "_")
