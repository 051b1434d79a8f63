"""Memory shared with sealing workers: nameless, used again only when nobody looks at it, and gone when nobody has it."""

import gc
import os
from pathlib import Path

from mdm_dicom_srm.shared_memory import BlockPool


def open_blocks() -> int:
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.is_symlink() and str(link.readlink()).startswith("/memfd:mdm-stage") for link in links)


def test_a_block_has_no_name_in_a_file_system_and_is_for_this_user_alone() -> None:
    block = BlockPool(1000).take()
    assert str(Path(f"/proc/self/fd/{block.descriptor}").readlink()).startswith("/memfd:")
    assert os.fstat(block.descriptor).st_mode & 0o777 == 0o600
    assert os.fstat(block.descriptor).st_nlink == 0


def test_a_block_is_given_out_again_only_after_its_last_piece_was_released() -> None:
    pool = BlockPool(1000)
    block = pool.take()
    first, second = block.piece(0, 400), block.piece(400, 400)
    block.release()
    first.view[:], second.view[:] = b"a" * 400, b"b" * 400
    first.release()
    first.release()
    assert pool.take().number != block.number
    assert second.view == b"b" * 400
    second.release()
    assert pool.take().number == block.number


def test_small_files_share_a_block_and_large_ones_have_their_own() -> None:
    pool = BlockPool(1000)
    contents = [bytes([number]) * size for number, size in enumerate((300, 300, 300, 300, 900, 5000, 0))]
    pieces = [pool.put(content) for content in contents]
    assert [bytes(piece.view) for piece in pieces] == contents
    assert pieces[0].block is pieces[2].block is not pieces[3].block
    assert pieces[5].block.size == 5000 and not pieces[5].block.lasting


def test_memory_that_nobody_released_is_freed_with_its_last_view() -> None:
    gc.collect()
    before = open_blocks()
    pool = BlockPool(1000, spare=2)
    view = pool.put(b"x" * 900).view
    gc.collect()
    assert view == b"x" * 900
    del view
    for block in [pool.take() for _ in range(5)]:
        block.release()
    del block
    gc.collect()
    assert open_blocks() - before <= 2 * 2
    del pool
    gc.collect()
    assert open_blocks() == before
