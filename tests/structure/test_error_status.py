"""Every kind of error crosses the network as a status and is the same kind on the other side."""

import pytest
from mdm_wire import errors, status
from mdm_wire.errors import Code, MdmError


def kinds() -> list[type[MdmError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MdmError) and kind is not MdmError]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_of_error_has_a_status_of_its_own(kind):
    assert [other for other in kinds() if other.code is kind.code] == [kind]
    error = errors.make_error(kind.code, "REASON", "what, where, what to do")
    assert status.to_status(error).code == int(kind.code) != int(Code.UNKNOWN)
    back = status.from_item(status.failed(error))
    assert (type(back), back.reason, back.message) == (kind, "REASON", "what, where, what to do")
