"""Data sets with a text wherever none may stay, in every encoding: what is released does not have it, whatever rule was broken."""

import io
import random

import pydicom
from data_set_grammar import DataSetGrammar
from hypothesis import given, settings
from hypothesis import strategies as st
from mdm_deid import Deidentifier, Outcome


@settings(max_examples=250)
@given(source=st.randoms(use_true_random=False))
def test_what_is_released_has_no_text(closed: Deidentifier, source: random.Random) -> None:
    result = closed.deidentify(DataSetGrammar(source).part10())
    output = b"".join(result.data or [])
    assert not names(output)
    if output:
        # The data set may be deflated.
        for element in pydicom.dcmread(io.BytesIO(output)).iterall():
            assert not names(element.value if isinstance(element.value, bytes) else str(element.value).encode())


def names(content: bytes) -> bool:
    return b"Wendeline" in content or b"Kerkstraat" in content


@settings(max_examples=100)
@given(source=st.randoms(use_true_random=False))
def test_what_breaks_no_rule_is_released_or_has_too_many_pixels(closed: Deidentifier, source: random.Random) -> None:
    result = closed.deidentify(DataSetGrammar(source, may_be_odd=False).part10())
    assert (result.outcome, result.reason) in ((Outcome.RELEASED, ""), (Outcome.QUARANTINED, "pixel_length"))
    if result.data is not None:
        output = pydicom.dcmread(io.BytesIO(b"".join(result.data)))
        assert not [element.tag for element in output.iterall() if element.tag.is_private]
