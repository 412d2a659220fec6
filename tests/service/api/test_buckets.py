from dropt.api import buckets
from dropt.api.buckets import MAX_BUCKETS, Buckets


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_full_bucket_gives_its_burst_and_then_what_flows_in() -> None:
    clock = Clock()
    taken = Buckets(per_second=2.0, burst=3.0, clock=clock)
    assert [taken.take("a") for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.5
    assert [taken.take("a") for _ in range(2)] == [0, 1]
    clock.now += 1e6  # no more than the burst flows in
    assert [taken.take("a") for _ in range(4)] == [0, 0, 0, 1]


def test_buckets_of_two_names_do_not_touch() -> None:
    taken = Buckets(per_second=0.1, burst=1.0, clock=Clock())
    assert [taken.take(name) for name in ("a", "a", "b")] == [0, 10, 0]


def test_who_asks_too_early_again_and_again_waits_no_longer() -> None:
    clock = Clock()
    taken = Buckets(per_second=0.125, burst=1.0, clock=clock)  # exact in binary
    taken.take("a")
    for wait_s in range(8, 0, -1):
        assert taken.take("a") == wait_s
        clock.now += 1
    assert taken.take("a") == 0


def test_so_many_names_are_kept_and_those_in_use_stay() -> None:
    taken = Buckets(per_second=0.001, burst=1.0, clock=Clock())
    taken.take("mine")
    for number in range(MAX_BUCKETS - 1):
        taken.take(f"{number}")
    assert taken.take("mine") > 0
    taken.take("one more")  # forgets the oldest, which is not mine
    assert taken.take("mine") > 0
    assert taken.take("0") == 0
    assert len(taken._buckets) == buckets.MAX_BUCKETS
