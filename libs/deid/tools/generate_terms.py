"""Write deid/data/terms.tsv: the defined terms and enumerated values that DICOM gives single attributes.

Sources, none of them needed at run time: the text of PS3.3 as `dicom-standard` 0.1.0 (MIT) has it in its wheel, the templates under
`libsrc/standard` of dicom3tools (BSD), which follow the standard since, and of PS3.16 the context groups of modalities that pydicom
(MIT) and the anatomic regions of annex L that highdicom (MIT) carry.
Run: python libs/deid/tools/generate_terms.py dicom_standard-0.1.0-py3-none-any.whl dicom3tools/libsrc/standard
"""

import json
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from mdm_deid.encoding.element import standard_vr
from pydicom.datadict import tag_for_keyword
from pydicom.sr._concepts_dict import concepts

OUT = Path(__file__).parents[1] / "src/mdm_deid/data/terms.tsv"
_VRS = (b"CS", b"LO", b"SH")
# These mean something together only, and are judged so (deid/term.py).
_CODED = ("CodeValue", "CodeMeaning")
_LIST = re.compile(r"<strong>[^<]*(?:Defined Term|Enumerated Value)[^<]*</strong>\s*</p>\s*<dl>(.*?)</dl>", re.DOTALL)
_TERM = re.compile(r"<dt>\s*(?:<span[^>]*>)?([^<]+?)(?:</span>)?\s*</dt>", re.DOTALL)
_HEADING = re.compile(r"<h\d[^>]*>(.*?)</h\d>", re.DOTALL)
_VALUES = re.compile(r'StringValues="(\w+)"\s*\{(.*?)\}', re.DOTALL)
_USE = re.compile(r'(?:Name|Verify)="(\w+)"[^\n]*String(?:DefinedTerms|EnumValues)="(\w+)')
# Of lists that templates choose by hand of what they find elsewhere in an object.
_CHOSEN = {"BodyPartExamined": r"BodyPartExamined\w*", "ViewPosition": r"ViewPosition\w*"}
# PS3.16: acquisition modality, non-acquisition modality, modality and their extensions.
_MODALITY_GROUPS = frozenset({29, 30, 32, 33})
# Terms that PS3.3 C.7.3.1.1.1 has retired.
_RETIRED_MODALITIES = ["AS", "CD", "CF", "CP", "CS", "DD", "DF", "DM", "DS", "EC", "FA", "FS", "LP", "MA", "MS", "OPR", "ST", "VF"]
# PS3.16 table 8-1, those without a context group in pydicom.
_SCHEMES = ["SRT", "SNM3", "99SDM", "SDM", "DCMUID", "ISO3166_1", "ISO639_1", "ISO639_2", "RFC3066", "RFC5646", "C4", "C5", "CD2"]
_SCHEMES += ["I9", "I9C", "I10P", "NICIP", "POS", "UNS", "BI", "MA"]
_LONGEST = 64
Terms = dict[int, set[str]]


def main(wheel: str, templates: str) -> None:
    """Write the table and print its size."""
    found: Terms = defaultdict(set)
    for keyword, terms in (*_of_the_text(wheel), *_of_templates(Path(templates)), *_of_context_groups()):
        tag = tag_for_keyword(keyword)
        if tag is not None and standard_vr(tag) in _VRS and keyword not in _CODED:
            found[tag].update(term for term in terms if term.isascii() and term.isprintable() and 0 < len(term) <= _LONGEST)
    lines = [
        "# Defined terms and enumerated values of DICOM PS3.3 and PS3.16 by attribute: tag, then its terms.",
        "# Written by tools/generate_terms.py, which names the sources.",
        *("\t".join((f"{tag:08X}", *sorted(terms))) for tag, terms in sorted(found.items()) if terms),
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="ascii")
    sys.stdout.write(f"{OUT}: {len(lines)} lines, {OUT.stat().st_size} bytes\n")


def _of_the_text(wheel: str) -> Iterator[tuple[str, set[str]]]:
    """Yield keyword and terms from the descriptions of attributes, and from the sections about them that these name."""
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/references.json")).removesuffix("references.json")
        load = lambda name: json.loads(archive.read(folder + name))  # noqa: E731
        sections, attributes = load("references.json"), {row["tag"]: row for row in load("attributes.json")}
        rows = load("module_to_attributes.json") + load("macro_to_attributes.json")
    for row in rows:
        attribute = attributes.get(row["tag"])
        if attribute is None:
            continue
        named = (sections.get(reference["sourceUrl"], "") for reference in row.get("externalReferences", ()))
        texts = [row["description"], *(text for text in named if attribute["name"] in "".join(_HEADING.findall(text)[:1]))]
        terms = {term.strip() for text in texts for part in _LIST.findall(text) for term in _TERM.findall(part)}
        if terms:
            yield attribute["keyword"], terms


def _of_templates(folder: Path) -> Iterator[tuple[str, set[str]]]:
    texts = [path.read_text("latin-1") for path in sorted(folder.rglob("*.tpl"))]
    lists = {name: _entries(body) for text in texts for name, body in _VALUES.findall(text)}
    for text in texts:
        yield from ((keyword, lists[name]) for keyword, name in _USE.findall(text) if name in lists)
    for keyword, pattern in _CHOSEN.items():
        yield from ((keyword, terms) for name, terms in lists.items() if re.fullmatch(pattern, name))


def _entries(body: str) -> set[str]:
    """Return the terms of a list of dicom3tools: `TERM = meaning,` or `"TERM"`, comments left out."""
    lines = (re.split(r"#|//", line)[0] for line in body.splitlines())
    entries = (entry.split("=")[0].strip(' \t"') for line in lines for entry in line.split(","))
    return {entry for entry in entries if re.fullmatch(r"[A-Z0-9_][A-Za-z0-9_ .+*/%-]*", entry)}


def _of_context_groups() -> Iterator[tuple[str, set[str]]]:
    dicom = [(code, set(groups)) for codes in concepts["DCM"].values() for code, (_, groups) in codes.items()]
    modalities = {code for code, groups in dicom if groups & _MODALITY_GROUPS and not code.isdigit()}
    yield "Modality", modalities | set(_RETIRED_MODALITIES)
    regions = json.loads((resources.files("highdicom") / "_standard/anatomic_regions.json").read_text())
    yield "BodyPartExamined", set(regions)
    yield "CodingSchemeDesignator", set(concepts) | set(_SCHEMES)


if __name__ == "__main__":
    main(*sys.argv[1:])
