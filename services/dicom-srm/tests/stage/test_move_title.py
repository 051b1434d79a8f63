"""Instances that retrieve by C-MOVE have AE titles of their own."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from mdm_dicom_srm.stage.rules.move_title import MoveTitle
from mdm_dicom_srm.stage.store.instance import PostgresInstances, PostgresMoveTitles
from mdm_service import database as databases
from mdm_service.settings import ConfigurationError
from psycopg_pool import ConnectionPool

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(database):
    databases.migrate(database.conninfo, ["mdm_dicom_srm.migrations"])
    with ConnectionPool(database.conninfo, min_size=1, max_size=4) as opened:
        yield opened


def register(pool, name):
    PostgresInstances(pool, name, "host").register(10)
    return PostgresMoveTitles(pool, name)


def test_a_title_that_another_instance_serves_under_is_refused_with_what_to_do(pool):
    one, two = register(pool, "srm-1"), register(pool, "srm-2")
    MoveTitle(one, "MDM", 10).start()
    MoveTitle(one, "MDM", 10).start()  # again, as after a restart
    with pytest.raises(
        ConfigurationError, match=r"scp\.ae_title: MDM is the AE title of the instance srm-1, too.*give srm-2 one of its own"
    ):
        MoveTitle(Impatient(two), "MDM", 0).start()
    MoveTitle(two, "MDM2", 10).start()


class Impatient:
    """Asks as one that waits ten seconds would, and does not wait."""

    def __init__(self, titles):
        self._titles, self.instance = titles, titles.instance

    def take(self, title, seconds):
        return self._titles.take(title, 10)


def test_without_c_move_titles_may_be_equal(pool):
    for name in ("srm-1", "srm-2"):
        MoveTitle(register(pool, name), "", 0).start()


def test_the_title_of_an_instance_that_is_silent_or_renamed_is_free(pool, database):
    one, two = register(pool, "srm-1"), register(pool, "srm-2")
    assert one.take("MDM", 10) == ""
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("UPDATE srm_instance SET beat_at = now() - interval '11 s' WHERE name = 'srm-1'")
    assert two.take("MDM", 10) == ""
    assert two.take("", 10) == "" and one.take("MDM", 10) == ""


def test_of_two_that_start_at_the_same_time_one_gets_it(pool):
    titles = [register(pool, f"srm-{number}") for number in range(6)]
    with ThreadPoolExecutor(4) as threads:
        holders = list(threads.map(lambda one: one.take("MDM", 10), titles))
    assert holders.count("") == 1 and len(set(holders)) == 2
