import hashlib
from itertools import product
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from dropt.tuning.seeds import Purpose, search_index, trial_seed

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
SEARCH_SEEDS = st.integers(0, 2**53 - 1)
NUMBERS = st.integers(0, 10_000)


def test_seed_is_the_first_53_bits_of_the_digest() -> None:
    digest = hashlib.sha256(b"7:compare:3").hexdigest()
    bits = bin(int(digest, 16))[2:].zfill(256)
    assert trial_seed(7, "compare", 3) == int(bits[:53], 2)


def test_search_index_names_arm_and_number() -> None:
    digest = hashlib.sha256(b"0:search:with.no_batch_norm/12").digest()
    expected = int.from_bytes(digest, "big") >> (256 - 53)
    assert trial_seed(0, "search", search_index("with.no_batch_norm", 12)) == expected


@given(SEARCH_SEEDS, st.sampled_from(PURPOSES), NUMBERS)
def test_every_json_reader_keeps_a_seed(search_seed: int, purpose: Purpose, number: int) -> None:
    assert 0 <= trial_seed(search_seed, purpose, number) < 2**53


@given(SEARCH_SEEDS, st.sets(NUMBERS, min_size=1, max_size=30))
def test_purposes_are_disjoint(search_seed: int, numbers: set[int]) -> None:
    paired = [p for p in PURPOSES if p != "search"]
    seeds = [trial_seed(search_seed, p, n) for p, n in product(paired, numbers)]
    seeds += [
        trial_seed(search_seed, "search", search_index(arm, n))
        for arm, n in product(("with", "without"), numbers)
    ]
    assert len(set(seeds)) == len(seeds) == 5 * len(numbers)


@given(SEARCH_SEEDS, SEARCH_SEEDS, NUMBERS, NUMBERS)
def test_only_the_same_search_seed_and_index_repeat_a_seed(
    first: int, second: int, one: int, other: int
) -> None:
    same = trial_seed(first, "compare", one) == trial_seed(second, "compare", other)
    assert same == ((first, one) == (second, other))


def test_no_two_seeds_of_a_large_job_meet() -> None:
    seeds = {trial_seed(0, purpose, n) for purpose, n in product(PURPOSES, range(50_000))}
    assert len(seeds) == len(PURPOSES) * 50_000
