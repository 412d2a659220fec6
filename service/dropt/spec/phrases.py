"""Words for codes of the answer, the same on the page and in the terminal."""

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "output_layer": "output layer",
    "before_batch_norm": "before batch norm",
    "skip_path": "skip path",
    "query_key_value": "query, key or value",
    "hard_coded": "rate is hard-coded",
    "covered": "covered by another site",
    "frozen": "nothing trainable around it",
}
CAUTIONS: Mapping[str, str] = {
    "few_test_examples": "fewer than 200 test examples: the interval is less certain",
    "heavy_tailed_examples": "1 % of the test examples carry most of the variance",
    "skewed_seeds": "one seed lies far from the others",
    "unstable_seeds": "some trainings did not end well",
    "without_undertuned": "few trials without dropout: more may lower its loss",
    "with_undertuned": "few trials with dropout for its settings, or its best came late",
}


def phrase(code: str, words: Mapping[str, str]) -> str:
    """The words for a code; a code of a newer version is told as it is, without underscores."""
    return words.get(code, code.replace("_", " "))
