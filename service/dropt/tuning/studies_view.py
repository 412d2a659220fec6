"""Optuna's studies of one project, as the dashboard may see them."""

from collections.abc import Callable, Collection
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from dropt.storage import arms
from dropt.storage.engine import Database


def study_ids(database: Database, project: str) -> frozenset[int]:
    """The numbers of the studies that belong to a project."""
    with database.reading() as session:
        return arms.study_ids(session, project=project)


class ProjectStudies:
    """A storage that has the studies of one project, and no method that writes.

    It is registered as a `BaseStorage`, not derived from it: what is not written here does not
    exist, so a new version of Optuna cannot open a way around the filter. A study of another
    project raises KeyError, like one that is not there.
    """

    def __init__(self, storage: BaseStorage, visible: Callable[[], Collection[int]]) -> None:
        self._storage = storage
        self._visible = visible

    def get_all_studies(self) -> list[FrozenStudy]:
        visible = self._visible()
        return [each for each in self._storage.get_all_studies() if each._study_id in visible]

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._checked(self._storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._storage.get_study_name_from_id(self._checked(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._storage.get_study_directions(self._checked(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(self._checked(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_system_attrs(self._checked(study_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: tuple[TrialState, ...] | None = None
    ) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._checked(study_id), deepcopy, states)

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        return self._storage.get_n_trials(self._checked(study_id), state)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._storage.get_best_trial(self._checked(study_id))

    def _checked(self, study_id: int) -> int:
        if study_id not in self._visible():
            raise KeyError(study_id)
        return study_id


BaseStorage.register(ProjectStudies)
