"""A look at a model that no job asked for: by a worker, once for each model, data and setting."""

from datetime import timedelta

from dropt.errors import FieldError, InvalidRequest, NotFound
from dropt.jobs.submission import resolve_known
from dropt.spec.inspection import Inspection
from dropt.spec.job import JobCreate, JobSpec, ModelRef
from dropt.spec.nearest import did_you_mean
from dropt.spec.preview import LookAt, LookPending
from dropt.spec.protocol import InspectionFailure
from dropt.storage import clock, datasets, inspections, workers
from dropt.storage.inspections import InspectionRow
from dropt.storage.session import Session
from dropt.tuning.service import Service
from dropt.tuning.work import inspection_key, look_request

FAILURE_STANDS = timedelta(seconds=60)  # then a worker looks anew: the fault may have been its own


def inspect(
    service: Service, model: str, body: LookAt, *, project: str
) -> Inspection | LookPending:
    """The sites of a model on a data set, or why they are not known yet.

    Raises:
        NotFound: no worker offers the model.
        InvalidRequest: an unknown data set or argument, or the model fails on the data.
    """
    spec = _spec(service, model, body, project=project)
    row = look(service, spec, project=project)
    if row.failure is not None:
        raise failure_of(row.failure, pointer="")
    if row.result is not None:
        return row.result
    return LookPending(
        state="running" if row.state == "running" else "waiting",
        reason=waits_for(service, row, spec, project=project),
    )


def look(service: Service, spec: JobSpec, *, project: str) -> InspectionRow:
    """The inspection that a job has or would have; asked for where there is none."""
    key = inspection_key(spec)
    with service.database.reading() as session:
        row = inspections.find(session, key, project=project)
        if row is not None and _stands(session, row):
            return row
    with service.database.writing() as session:
        data = datasets.get(session, spec.dataset.name, project=project)
        asked = look_request(spec, uploaded=data.kind == "uploaded")
        id = inspections.request(session, key, asked, project=project)
        return inspections.get(session, id, project=project)


def waits_for(service: Service, row: InspectionRow, spec: JobSpec, *, project: str) -> str:
    """What a look waits for, in words."""
    if row.state == "running":
        return "A worker looks for the sites of the model."
    with service.database.reading() as session:
        known = workers.offers(session, project=project)
    model, data = known.models.get(spec.model.name), known.datasets.get(spec.dataset.name)
    if model is None or model.n_workers == 0:
        return f"Waiting for a worker that offers model '{spec.model.name}'."
    if data is None or (data.kind == "offered" and data.n_workers == 0):
        return f"Waiting for a worker that has data set '{spec.dataset.name}'."
    return "Waiting for a worker that has time to look at the model."


def failure_of(failure: InspectionFailure, *, pointer: str) -> InvalidRequest:
    """The error of a model that fails on the data."""
    code = "model-fails" if failure.reason == "error" else failure.reason
    message = f"The model cannot be inspected on this data set: {failure.detail}"
    return InvalidRequest(message, errors=[FieldError(pointer, code, message)])


def _spec(service: Service, model: str, body: LookAt, *, project: str) -> JobSpec:
    """The job that the look is for, all else at its defaults."""
    with service.database.reading() as session:
        models = workers.offers(session, project=project).models
        if model not in models:
            raise NotFound(f"No worker offers a model of this name.{did_you_mean(model, models)}")
        job = JobCreate(model=ModelRef(name=model, args=body.args), dataset=body.dataset)
        try:
            return resolve_known(session, job, project=project)
        except InvalidRequest as error:
            raise InvalidRequest.of(*(_of_look(each) for each in error.errors)) from error


def _of_look(error: FieldError) -> FieldError:
    """The same fault under the pointer that it has in the body of a look."""
    return FieldError(
        error.pointer.removeprefix("/model"), error.code, error.message,
        received=error.received, allowed=error.allowed, see=error.see,
    )  # fmt: skip


def _stands(session: Session, row: InspectionRow) -> bool:
    """Whether there is nothing to ask for: found, under way, waiting, or failed just now."""
    if row.state == "waiting":
        return row.request.get("spec") is not None  # that of a job may wait for the job
    if row.state == "failed" and row.finished_at is not None:
        return row.finished_at > clock.now(session) - FAILURE_STANDS
    return row.state in ("running", "done")
