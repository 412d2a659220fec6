"""The report of a job as a page and as JSON, and the start page."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from dropt.api.caching import cached_answer
from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.problems import problems
from dropt.errors import NotFound
from dropt.jobs import report as reports
from dropt.jobs.report import Stamp
from dropt.report import page
from dropt.spec.report import Report

router = APIRouter(tags=["answers"])

MOST_KEPT = 32  # reports in memory, about 0.3 MB each
HTML = {"text/html": {"schema": {"type": "string"}}}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "Nothing has changed."}}


class ReportQuery(BaseModel):
    """In which form the page is wanted."""

    standalone: bool = Field(
        default=False, description="As a file to keep: no script, no links to this service."
    )


@dataclass
class Reports:
    """Reports that were built, newest use last; each is built once, however many ask for it."""

    _kept: OrderedDict[Stamp, Report] = field(default_factory=OrderedDict)
    _locks: dict[Stamp, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, stamp: Stamp, build: Callable[[], Report]) -> Report:
        """The report of this stamp; those who ask while it is built wait for it."""
        with self._lock:
            turn = self._locks.setdefault(stamp, threading.Lock())
        with turn:
            with self._lock:
                found = self._kept.get(stamp)
            if found is None:
                found = build()
            with self._lock:
                self._kept[stamp] = found
                self._kept.move_to_end(stamp)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
                self._locks.pop(stamp, None)
        return found


@router.get(
    "/v1/jobs/{job}/report", operation_id="get_report", response_class=HTMLResponse,
    responses={200: {"content": HTML}, **UNCHANGED, **problems(NotFound)},
)  # fmt: skip
def get_report(
    job: str, query: Annotated[ReportQuery, Query()], request: Request, service: ServiceDep,
    project: ProjectDep,
) -> Response:  # fmt: skip
    """The report as a page: whether, where, how much, how sure; provisional before the end."""
    report = _report(request, service, job, project)
    content = page.report_page(report, standalone=query.standalone)
    is_live = not report.job.done and not query.standalone
    return _html(request, content, is_live=is_live)


@router.get(
    "/v1/jobs/{job}/report.json", operation_id="get_report_data", response_model=Report,
    responses={**UNCHANGED, **problems(NotFound)},
)  # fmt: skip
def get_report_data(
    job: str, request: Request, service: ServiceDep, project: ProjectDep
) -> Response:
    """Every number of the report page."""
    report = _report(request, service, job, project)
    return cached_answer(request, report, revision=report.revision)


@router.get("/", operation_id="get_start_page", response_class=HTMLResponse)
def get_start_page(request: Request, service: ServiceDep, project: ProjectDep) -> Response:
    """The jobs with their verdicts, and how to start one."""
    found = reports.start_page(service, project=project)
    content = page.start_page(found, server=str(request.base_url).rstrip("/"))
    return _html(request, content, is_live=False)


def _report(request: Request, service: ServiceDep, job: str, project: str) -> Report:
    kept: Reports = request.app.state.reports
    stamp = reports.stamp(service, job, project=project)
    return kept.get(stamp, lambda: reports.report(service, job, project=project))


def _html(request: Request, content: str, *, is_live: bool) -> Response:
    tag = f'W/"{hashlib.sha256(content.encode()).hexdigest()[:16]}"'
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": f"{page.content_policy(is_live=is_live)}; "
        "frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(content, headers=headers)
