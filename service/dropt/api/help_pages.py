"""`/problems/{code}`: what a problem means, for people who follow its `type`."""

from collections.abc import Iterator
from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from dropt.api.problems import problems
from dropt.errors import DroptError, NotFound
from dropt.spec.nearest import did_you_mean

router = APIRouter(tags=["operation"])

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{code}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 2em auto }}</style>
<h1>{title}</h1>
<p><code>{code}</code> · HTTP status {status}</p>
<p>{text}</p>
<p>The <code>detail</code> of the answer says what happened and what to do; <code>errors</code>
names each field with what was received and what is allowed; <code>request_id</code> finds the
request in the log of the service.</p>
</html>
"""


@router.get(
    "/problems/{code}", operation_id="get_problem", response_class=HTMLResponse,
    responses=problems(NotFound),
)  # fmt: skip
def get_problem(code: str) -> HTMLResponse:
    """A page that explains one kind of problem."""
    kinds = {kind.code: kind for kind in kinds_of_problems()}
    if code not in kinds:
        raise NotFound(f"There is no problem of this code.{did_you_mean(code, kinds)}")
    kind = kinds[code]
    page = _PAGE.format(
        code=escape(code), title=escape(kind.title), status=kind.status,
        text=escape((kind.__doc__ or "").partition("\n")[0]),
    )  # fmt: skip
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


def kinds_of_problems() -> Iterator[type[DroptError]]:
    """Every leaf of the error tree that an answer may tell."""
    kinds: list[type[DroptError]] = [DroptError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__ == DroptError.__module__ and kind is not DroptError:
            yield kind
        kinds.extend(kind.__subclasses__())
