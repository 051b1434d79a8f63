"""The purge loop survives failures and stops when told."""

import threading

from mdm_keystore.purge import PurgeLoop


def test_a_failed_round_is_followed_by_another_and_stop_ends_the_loop(caplog):
    rounds = threading.Semaphore(0)
    calls = []

    def purge() -> int:
        calls.append(None)
        rounds.release()
        if len(calls) == 1:
            raise OSError("secret detail")
        return 3

    with caplog.at_level("INFO"):
        loop = PurgeLoop(purge, 0.01)
        assert all(rounds.acquire(timeout=5) for _ in range(3))
        loop.stop()
    ended = len(calls)
    assert "purge failed" in caplog.text
    assert "secret detail" not in caplog.text
    assert not rounds.acquire(timeout=0.05) or len(calls) == ended
