"""What the service answers when it cannot do what was asked."""

from dropt.spec.record import Answer


class ProblemField(Answer):
    """One field of a problem."""

    pointer: str
    code: str
    message: str
    received: str | None = None
    allowed: tuple[str, ...] = ()
    see: str | None = None


class Problem(Answer):
    """RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str
    errors: tuple[ProblemField, ...] = ()
