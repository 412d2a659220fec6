import re
import threading

import pytest

from dropt.spec import ids
from dropt.spec.ids import is_id, new_id

FORM = re.compile(r"trl_[0-9A-HJKMNP-TV-Z]{26}")


def test_id_is_a_prefix_and_26_characters_without_i_l_o_u() -> None:
    assert all(FORM.fullmatch(new_id("trl")) for _ in range(100))


def test_ids_of_a_process_sort_in_the_order_of_their_making() -> None:
    made = [new_id("trl") for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_rise_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id("job")
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert new_id("job") > before


def test_id_begins_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_last", 0)
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000 << 40)
    made = new_id("job").removeprefix("job_")
    number = 0
    for digit in made:
        number = number << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(digit)
    assert number >> 82 == 1 << 40


def test_threads_make_different_ids() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend([new_id("trl") for _ in range(500)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000


@pytest.mark.parametrize("prefix", ["job", "trl", "wrk", "lea", "ds", "key"])
def test_what_was_made_is_an_id_of_its_prefix_alone(prefix: str) -> None:
    made = new_id(prefix)
    assert is_id(made, prefix)
    assert not is_id(made, "job" if prefix != "job" else "trl")


@pytest.mark.parametrize(
    "text",
    [
        "", "job", "job_", "job_" + "0" * 25, "job_" + "0" * 27, "job_" + "0" * 25 + "I",
        "job_" + "0" * 25 + "a", " job_" + "0" * 26, "job_" + "0" * 26 + "\n", "trl_" + "0" * 26,
        "x' OR 1=1 --", "job_../../../../etc/passwd0000",
    ],
)  # fmt: skip
def test_anything_else_is_no_id(text: str) -> None:
    assert not is_id(text, "job")
