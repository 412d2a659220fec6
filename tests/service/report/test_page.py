import json
import re
import xml.etree.ElementTree as ET
from functools import cache

import pytest
from tests.factories import PROJECT
from tests.service.conftest import Done
from tests.service.report.formulas import searched
from tests.service.report.pages import Parsed, parse

from dropt.jobs import lists
from dropt.jobs import report as reports
from dropt.report.page import content_policy, live_script, report_page, start_page
from dropt.report.sensitivity import sensitivity
from dropt.report.start import StartPage
from dropt.spec.report import Report, Sensitivity

BLOCKS = (
    "verdict", "seeds", "curves", "response", "matters", "ties", "neighbours", "search", "budget",
    "diagnosis", "use", "reproduce",
)  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; </style></svg></script><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "\u2028\u2029&lt;b&gt;",
    "x" * 200,
)


@cache
def report_of(done: Done) -> Report:
    return reports.report(done.service, done.job.id, project=PROJECT)


Done.__hash__ = object.__hash__  # type: ignore[method-assign]  # one report for all tests here


def page_of(report: Report, *, standalone: bool = False) -> Parsed:
    return parse(report_page(report, standalone=standalone))


@pytest.mark.parametrize("name", ["done", "raced"])
def test_numbers_of_the_page_are_those_of_verdict_and_best(
    name: str, request: pytest.FixtureRequest
) -> None:
    job: Done = request.getfixturevalue(name)
    page = page_of(report_of(job))
    verdict = lists.verdict(job.service, job.job.id, project=PROJECT)
    best = lists.best(job.service, job.job.id, project=PROJECT)
    assert page.by_id["summary"].strip() == verdict.summary == best.summary
    assert verdict.interval is not None
    assert str(verdict.effect) in page.values
    assert f"{verdict.interval[0]} {verdict.interval[1]}" in page.values
    assert {str(arm.mean) for arm in verdict.arms} <= set(page.values)
    found = next(one for one in (best.recommended, *best.alternatives) if one.arm == "with")
    assert page.rates == {site.site: site.rate for site in found.sites}


def test_headline_tells_the_digits_of_the_sentence(done: Done) -> None:
    report = report_of(done)
    assert report.verdict is not None
    page = page_of(report)
    for shown in re.findall(r"[-+]\d+\.\d+", report.verdict.summary):
        assert shown in page.by_id["effect"] + page.by_id["interval"]


def test_every_block_has_its_place_and_its_heading(raced: Done) -> None:
    page = page_of(report_of(raced))
    for block in BLOCKS:
        assert page.by_id[f"{block}-title"].strip(), block
    assert page.tags.count("h1") == 1


def test_the_tested_ablation_stands_before_the_opinion_of_a_model(raced: Done) -> None:
    report = report_of(raced)
    assert report.verdict is not None
    assert report.verdict.ablation
    text = page_of(report).by_id["matters"]
    for one in report.verdict.ablation:
        assert ", ".join(one.sites) in text
    assert text.index("Measured") < text.index("A model's opinion")


def without_parts(report: Report, **parts: object) -> Report:
    return report.model_copy(update=parts)


def test_a_block_without_data_says_why(done: Done) -> None:
    bare = without_parts(
        report_of(done), verdict=None, best=None, where=None, means=(), curves=(),
        sensitivity=None, ties=(), settings=(), diagnosis=(), use=None,
        empty={block: f"Nothing for {block}." for block in (
            "verdict", "where", "seeds", "curves", "response", "ablation", "ties", "neighbours",
            "search", "diagnosis", "use",
        )},
    )  # fmt: skip
    page = page_of(bare)
    for block in ("seeds", "curves", "response", "ties", "neighbours", "diagnosis", "use"):
        assert f"Nothing for {block}." in page.by_id[block]
    assert "No verdict yet" in page.by_id["verdict"]
    assert "Nothing for where." in page.by_id["verdict"]


WORDS = ("helps", "hurts", "no measurable difference", "undecided")


@pytest.mark.parametrize("verdict", [None, "not_tested"])
def test_an_untested_claim_is_never_shown_as_tested(done: Done, verdict: str | None) -> None:
    report = report_of(done)
    untested = None
    if verdict is not None and report.verdict is not None:
        untested = report.verdict.model_copy(
            update={"verdict": "not_tested", "effect": None, "interval": None, "seeds": 0,
                    "pairs": (), "arms": (), "summary": "Not tested: evidence was off."}
        )  # fmt: skip
    page = page_of(without_parts(report, verdict=untested, means=(), where=None, best=None))
    title = page.by_id["verdict-title"].lower()
    assert title in ("no verdict yet", "not tested")
    assert not any(word in title for word in WORDS)
    assert "paired" not in page.by_id["verdict"]


def hostile(report: Report, text: str) -> Report:
    """The report with this text wherever a user or a worker names something."""
    job = report.job
    spec = job.spec.model_copy(
        update={
            "model": job.spec.model.model_copy(update={"name": text}),
            "dataset": job.spec.dataset.model_copy(update={"name": text}),
        }
    )
    named = job.model_copy(
        update={"name": text, "labels": {text[:64]: text}, "spec": spec, "reason": text,
                "warnings": (text,)}
    )  # fmt: skip
    encoded = json.dumps(text)[1:-1]
    body = json.loads(
        report.model_copy(update={"job": named}).model_dump_json(by_alias=True)
        .replace("layers.1:out", encoded).replace("vm", encoded)
    )  # fmt: skip
    body["reproduce"]["machines"] = [{"worker": text, "device": text, "versions": {text: text}}]
    return Report.model_validate(body)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_users_are_inert(done: Done, text: str) -> None:
    plain, page = page_of(report_of(done)), page_of(hostile(report_of(done), text))
    assert page.handlers == []
    assert set(page.tags) == set(plain.tags)
    assert page.script == plain.script == ""
    assert {url for url in page.urls if not url.startswith(("/", "data:,"))} == set()
    assert text.split()[0] in page.text
    assert "49" not in page.by_id["verdict-title"]


def test_the_file_loads_nothing_and_says_so_itself(done: Done) -> None:
    html = report_page(report_of(done), standalone=True)
    page = parse(html)
    assert page.urls == ["data:,"]
    assert "script" not in page.tags
    assert html.count("http-equiv") == 1
    assert "default-src &#39;none&#39;" in html
    assert "url(" not in html


def test_pages_stay_small(raced: Done) -> None:
    report = without_parts(report_of(raced), sensitivity=sensitive(raced))
    assert len(report_page(report).encode()) <= 150_000
    assert len(report.model_dump_json().encode()) <= 500_000


def test_a_running_job_looks_again_and_a_finished_one_does_not(done: Done) -> None:
    report = report_of(done)
    job = report.job.model_copy(update={"done": False, "state": "running", "phase": "search"})
    running = without_parts(report, job=job, provisional=True)
    page = page_of(running)
    assert page.script == live_script()
    assert "provisional" in page.by_id["verdict"]
    assert page_of(report).script == ""
    assert page_of(running, standalone=True).script == ""


def test_only_the_script_of_the_page_may_run() -> None:
    assert "script-src" not in content_policy(is_live=False)
    assert "connect-src" not in content_policy(is_live=False)
    allowed = content_policy(is_live=True)
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", allowed)
    assert "unsafe-eval" not in allowed


def sensitive(done: Done) -> Sensitivity:
    """What a longer search would have said."""
    assert done.job.space is not None
    rows = searched(done, lambda rates, lr: 0.3 + sum(rates.values()) ** 2, n=20)
    found = sensitivity(done.job.spec, done.job.space, rows, chosen={})
    assert found is not None
    return found


def test_figures_are_pictures_with_a_sentence_each(raced: Done) -> None:
    found = sensitive(raced)
    html = report_page(without_parts(report_of(raced), sensitivity=found))
    charts = re.findall(r"<svg [^>]*role=\"img\".*?</svg>", html, re.DOTALL)
    assert len(charts) == 3 + len(found.responses) + 1
    for chart in charts:
        root = ET.fromstring(chart)
        assert root.attrib["aria-label"].endswith(".")
        assert root[0].tag == "title"


def test_the_name_of_a_host_is_inert_on_the_start_page() -> None:
    page = parse(start_page(StartPage(jobs=(), workers=()), server="http://<script>x</script>"))
    assert "script" not in page.tags
    assert "http://<script>x</script>/v1/jobs" in page.text
