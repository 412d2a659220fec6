"""What happens to a job, as it happens: server-sent events that a reader can take up again."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from dropt.api.deps import ProjectDep, ServiceDep
from dropt.api.problems import problems
from dropt.errors import NotFound
from dropt.jobs import following, lists
from dropt.jobs.following import News
from dropt.spec.record import MAX_EXACT_INT
from dropt.tuning.service import Service

router = APIRouter(prefix="/v1/jobs/{job}/events", tags=["answers"])

PAUSE_S = 0.5  # between two looks at the database; also the most often that progress is told
BATCH = 200  # events in one look


def _known(job: str, service: ServiceDep, project: ProjectDep) -> str:
    """The job, which is looked for before the answer begins. Raises NotFound."""
    return lists.read_job(service, job, project=project).id


def _start(after: int, last_event_id: str) -> int:
    """The sequence after which the stream begins; an id that is not ours is ignored."""
    is_ours = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 16
    return max(after, int(last_event_id)) if is_ours else after


@router.get(
    "/stream", operation_id="get_event_stream", response_class=EventSourceResponse,
    responses=problems(NotFound),
)  # fmt: skip
async def get_event_stream(
    job: Annotated[str, Depends(_known)], request: Request, service: ServiceDep,
    project: ProjectDep,
    after: Annotated[int, Query(ge=0, le=MAX_EXACT_INT, description="As `Last-Event-ID`.")] = 0,
    last_event_id: Annotated[
        str, Header(alias="Last-Event-ID", description="The stream goes on after this event.")
    ] = "",
) -> AsyncIterator[ServerSentEvent]:  # fmt: skip
    """Every stored event after `Last-Event-ID`, then each new one, until the job has ended.

    The id of an event is its sequence: a reader that was cut off sends the last one it has seen
    and misses nothing. `trial.progress` says how far the arms are, at most twice a second; it has
    no id and is not repeated.
    """
    look, start = partial(_look, request, service, job, project), _start(after, last_event_id)
    news = await look(start)
    progress = ""
    while True:
        for event in news.events:
            start = event.sequence
            yield ServerSentEvent(
                event=event.type, id=f"{event.sequence}", raw_data=event.model_dump_json()
            )
        if news.is_over:
            return
        if news.is_complete:
            if (told := _progress(news)) != progress:
                progress = told
                yield ServerSentEvent(event="trial.progress", raw_data=_dated(news, told))
            await anyio.sleep(PAUSE_S)
        news = await look(start)


async def _look(request: Request, service: Service, job: str, project: str, after: int) -> News:
    """One look; all that wait share two threads, so that they crowd out nobody."""
    look = partial(following.news, service, job, project=project, after=after, limit=BATCH)
    return await to_thread.run_sync(look, limiter=request.app.state.look_limiter)


def _progress(news: News) -> str:
    return json.dumps(news.progress.model_dump(mode="json"), allow_nan=False)


def _dated(news: News, progress: str) -> str:
    """The data line of `trial.progress`, which has no sequence."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": "trial.progress", "at": at, "job": news.job, "data": json.loads(progress)}
    return json.dumps(told, allow_nan=False)
