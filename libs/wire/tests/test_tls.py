"""An identity whose files are not whole is refused before gRPC sees it."""

from dataclasses import replace

import pytest
from mdm_wire.tls import secure_channel


@pytest.mark.parametrize("part", ["certificate", "key", "ca"])
def test_an_empty_file_is_named_and_does_not_abort_the_process(pki, tmp_path, part):
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(OSError, match=r"empty\.pem"):
        secure_channel("localhost:1", replace(pki.issue(pki.subject("alice")), **{part: empty}))
