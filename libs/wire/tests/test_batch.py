"""Items cut into batches, and their statuses put back beside them."""

from types import SimpleNamespace

import pytest
from mdm.common.v1.common_pb2 import ItemStatus
from mdm_wire.batch import in_batches, item_answers, item_errors
from mdm_wire.errors import Corrupt, NotFound

MISSING = ItemStatus(code=5, reason="KEY_NOT_FOUND", message="none")


def test_batches_have_at_most_their_size_and_keep_the_order():
    assert in_batches(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert in_batches(iter(()), 2) == []


def test_each_item_has_its_error_or_its_value():
    (good, bad) = item_errors(["a", "b"], [ItemStatus(), MISSING])
    assert (good, type(bad)) == (None, NotFound)
    results = [SimpleNamespace(status=ItemStatus(), value=7), SimpleNamespace(status=MISSING, value=8)]
    value, error = item_answers(["a", "b"], results, lambda result: result.value)
    assert (value, type(error)) == (7, NotFound)


@pytest.mark.parametrize("statuses", [[], [ItemStatus()] * 3])
def test_an_answer_about_another_number_of_items_is_not_taken(statuses):
    with pytest.raises(Corrupt, match="another number of items"):
        item_errors(["a", "b"], statuses)
