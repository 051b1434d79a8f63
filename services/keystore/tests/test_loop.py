"""The loop survives failures, goes on at once while there is work, wakes and stops when told."""

import threading

from mdm_keystore.composition import Loop


def test_a_failed_round_is_followed_by_another_and_stop_ends_the_loop(caplog):
    rounds = threading.Semaphore(0)
    calls = []

    def work() -> None:
        calls.append(None)
        rounds.release()
        if len(calls) == 1:
            raise OSError("secret detail")

    with caplog.at_level("INFO"):
        loop = Loop("purge", work, 0.01)
        loop.start()
        assert all(rounds.acquire(timeout=5) for _ in range(3))
        loop.stop()
    ended = len(calls)
    assert "purge failed" in caplog.text
    assert "secret detail" not in caplog.text
    assert not rounds.acquire(timeout=0.05) or len(calls) == ended


def test_a_loop_goes_on_while_there_is_work_and_wakes_when_told():
    rounds, left = threading.Semaphore(0), [True, True, False, False]

    def work() -> bool:
        rounds.release()
        return left.pop(0)

    loop = Loop("work", work, 3600)
    loop.start()
    assert all(rounds.acquire(timeout=5) for _ in range(3)), "at once"
    assert not rounds.acquire(timeout=0.05)
    loop.wake()
    assert rounds.acquire(timeout=5)
    loop.stop()
