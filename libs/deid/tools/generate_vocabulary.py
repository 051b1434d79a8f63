"""Write deid/data/vocabulary.txt: the words of the standard, which name nobody, from the dictionaries that come with pydicom."""

import re
import textwrap
from pathlib import Path

from mdm_deid.text.identity import fold, words
from pydicom.datadict import DicomDictionary
from pydicom.sr._cid_dict import name_for_cid
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import UID_dictionary

_TARGET = Path(__file__).parents[1] / "src/mdm_deid/data/vocabulary.txt"
# Breeds are named after places and persons.
_LEFT_OUT = frozenset(cid for cid, name in name_for_cid.items() if "Breed" in name)
_WORD = re.compile(r"[^\W\d_]{3,}")
_HEAD = (
    "# Words of DICOM's dictionary of attributes, of its UIDs and of the codes of its context groups (PS3.6, PS3.16), all lower case.\n"
    "# Written by tools/generate_vocabulary.py, without those under [names] in words.txt.\n"
)


def main() -> None:
    """Gather the words and write them, sorted."""
    texts = [entry[2] for entry in DicomDictionary.values()] + [entry[0] for entry in UID_dictionary.values()]
    for scheme in concepts.values():
        for codes in scheme.values():
            texts += [meaning for meaning, cids in codes.values() if set(cids) - _LEFT_OUT]
    found = {fold(word) for text in texts for word in _WORD.findall(text)} - words("names")
    _TARGET.write_text(_HEAD + textwrap.fill(" ".join(sorted(found)), 140) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
