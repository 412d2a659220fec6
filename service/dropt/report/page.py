"""The pages as HTML: templates over values, escaped throughout; they compute nothing."""

import base64
import hashlib
import json
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dropt.report import figures, words
from dropt.report.start import StartPage
from dropt.spec.quantities import count, rate, score
from dropt.spec.report import Report

TEMPLATES = "templates"
UNKNOWN = "Not measured."


def report_page(report: Report, *, standalone: bool = False) -> str:
    """The report as one page; `standalone` is a file without script or links to a service."""
    is_live = not report.job.done and not standalone
    policy = content_policy(is_live=False) if standalone else None
    return _environment().get_template("report.html").render(
        report=report, job=report.job, verdict=report.verdict, best=report.best,
        metric=report.job.spec.objective.metric, standalone=standalone, policy=policy,
        script=live_script() if is_live else None,
        why=lambda block: report.empty.get(block, UNKNOWN),
    )  # fmt: skip


def start_page(page: StartPage, *, server: str) -> str:
    """The jobs with their verdicts, and how to begin; `server` is the URL in the commands."""
    return _environment().get_template("start.html").render(page=page, server=server)


def content_policy(*, is_live: bool) -> str:
    """What the page may load: nothing but its own style and, while a job runs, its own script."""
    parts = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    if is_live:
        digest = base64.b64encode(hashlib.sha256(live_script().encode()).digest()).decode()
        parts += [f"script-src 'sha256-{digest}'", "connect-src 'self'"]
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


@cache
def live_script() -> Markup:
    """The script that replaces the body of the page while the job runs."""
    return Markup(_text("live.js"))  # noqa: S704 - a file of this package


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dropt.report", TEMPLATES), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(
        figures=figures, words=words, style=Markup(_text("style.css")),  # noqa: S704 - as above
        count=count, score=score, rate=rate, as_json=_as_json,
    )  # fmt: skip
    return environment


def _text(name: str) -> str:
    return resources.files("dropt.report").joinpath(TEMPLATES, name).read_text("utf-8")


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
