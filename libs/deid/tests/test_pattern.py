"""The search for many texts at once: the same answers compiled and not, in parts and as a whole, one file after the other."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdm_deid.check.search import CompiledValues
from mdm_deid.text import pattern
from mdm_deid.text.pattern import Patterns

# Few different bytes, so that texts do occur: letters in both cases, zeros, and what has a meaning in expressions.
BYTES = st.sampled_from(b"abAB01\0.*\\x(\xe9\xff")
CONTENT = st.lists(BYTES, max_size=300).map(bytes)
TEXTS = st.sets(st.lists(BYTES, min_size=1, max_size=5).map(bytes), max_size=12)


@pytest.fixture(params=["compiled", "one by one", "in parts", "one by one in parts"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "one by one" in request.param:
        monkeypatch.setattr(pattern, "hyperscan", None)
    else:
        monkeypatch.setattr(pattern, "_WORTH_COMPILING", 0)
    if "parts" in request.param:
        monkeypatch.setattr(pattern, "_CHUNK", 7)
        monkeypatch.setattr(pattern, "_COMPILED_CHUNK", 7)


@pytest.mark.usefixtures("way")
@given(texts=TEXTS, content=CONTENT, ignore_case=st.booleans())
def test_it_finds_what_stands_there(texts: set[bytes], content: bytes, ignore_case: bool) -> None:
    if ignore_case:
        texts = {text.lower() for text in texts}
    read = content.lower() if ignore_case else content
    patterns = Patterns(texts, ignore_case)
    for _ in range(2):
        assert patterns.occurring(memoryview(content)) == {text for text in texts if text in read}


@pytest.mark.usefixtures("way")
def test_long_texts_are_looked_at_to_their_end() -> None:
    texts = [b"a" * 200 + b"b", b"a" * 200 + b"c", b"a" * 100]
    assert Patterns(texts).occurring(b"x" * 50 + b"a" * 250 + b"b") == {texts[0], texts[2]}
    assert Patterns(texts, ignore_case=True).occurring(b"A" * 250 + b"C") == {texts[1], texts[2]}


def test_many_texts_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "MOST_COMPILED", 10)
    patterns = Patterns(b"%05d" % number for number in range(11))
    assert patterns.occurring(b"-" * 100_000 + b"00007") == {b"00007"}
    assert patterns.cost(bytes(1000)) == 11_000


def test_what_is_kept_from_file_to_file_finds_only_what_is_asked_for() -> None:
    source = random.Random(3)
    words = [bytes(source.choices(b"abcd", k=source.randrange(2, 6))) for _ in range(60)]
    compiled = CompiledValues(few=4)
    for _ in range(300):
        wanted = set(source.sample(words, source.randrange(0, 40)))
        contents = [bytes(source.choices(b"abcdABCD ", k=source.choice((0, 20, 200, 70_000)))) for _ in range(2)]
        found, _ = compiled.occurring(wanted, contents)
        assert found == {word for word in wanted if any(word in content.lower() for content in contents)}


def test_a_series_of_files_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[frozenset[bytes]] = []
    real = Patterns._compiled

    def compiled(self: Patterns) -> object:
        if self._database is None:
            made.append(self.texts)
        return real(self)

    monkeypatch.setattr(Patterns, "_compiled", compiled)
    values, search = {b"value %d" % number for number in range(50)}, CompiledValues(few=4)
    for number in range(30):
        search.occurring(values | {b"other %d" % number}, [bytes(10_000)])
    assert sum(len(texts) > 1 for texts in made) == 1
    assert all(len(one) >= len(other) or len(other) > 40 for one, other in pairwise(made))
