from collections.abc import Sequence
from dataclasses import replace

from tests.service.conftest import Done

from dropt.report.history import MOST_DOTS, history_of
from dropt.spec.ids import TrialId
from dropt.spec.results import TrialState
from dropt.storage.trials import TrialRow


def rows(done: Done, states: Sequence[TrialState], values: Sequence[float]) -> list[TrialRow]:
    pattern = done.trials(phase="search", arm="with")[0]
    return [
        replace(pattern, id=TrialId(f"trl_{i:06}"), number=i, state=state, value=value)
        for i, (state, value) in enumerate(zip(states, values, strict=True))
    ]


def test_pruned_trials_are_thinned_first(done: Done) -> None:
    states: list[TrialState] = ["completed" if i % 5 == 0 else "pruned" for i in range(2000)]
    history = history_of(done.job, rows(done, states, [0.3] * 2000), {"with": 2000})
    assert history.trials == 2000
    assert len(history.dots) == MOST_DOTS
    assert sum(dot.state == "completed" for dot in history.dots) == 400
    assert [dot.order for dot in history.dots] == sorted(dot.order for dot in history.dots)
    assert history.arms[0].trials == {"completed": 400, "pruned": 1600}


def test_the_best_so_far_counts_completed_trials_alone(done: Done) -> None:
    found = rows(done, ["completed", "pruned", "completed", "completed"], [0.5, 0.1, 0.6, 0.4])
    history = history_of(done.job, found, {"with": 4})
    assert history.arms[0].best_so_far == ((1, 0.5), (4, 0.4))


def test_what_is_better_depends_on_the_direction(done: Done) -> None:
    objective = done.job.spec.objective.model_copy(
        update={"metric": "accuracy", "direction": "maximize"}
    )
    job = replace(done.job, spec=done.job.spec.model_copy(update={"objective": objective}))
    history = history_of(job, rows(done, ["completed"] * 3, [0.5, 0.4, 0.6]), {"with": 3})
    assert history.arms[0].best_so_far == ((1, 0.5), (3, 0.6))
