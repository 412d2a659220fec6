"""A request that is sent twice does its work once."""

from collections.abc import Callable

from dropt.spec.results import JobRead
from dropt.storage import idempotency
from dropt.storage.session import Session
from dropt.tuning.service import Idempotency


def once(
    session: Session, key: Idempotency | None, work: Callable[[], JobRead], *, project: str
) -> tuple[JobRead, bool]:
    """The answer of `work`, or the one that it gave under this key; the flag says which.

    The answer is stored in the transaction that does the work.

    Raises:
        IdempotencyKeyReused: the key came with another body.
    """
    if key is None:
        return work(), False
    known = idempotency.reserve(session, key.path, key.key, key.body_sha256, project=project)
    if known is not None:
        return JobRead.model_validate(known.answer), True
    answer = work()
    idempotency.store(
        session, key.path, key.key, key.body_sha256, 202,
        {"Location": f"/v1/jobs/{answer.id}"}, answer.model_dump(mode="json", by_alias=True),
        project=project,
    )  # fmt: skip
    return answer, False
