"""What a lost trial costs it: conditions on a row of `trial` whose lease is known to be over.

A trial lost twice without an epoch in between is leased alone; a loss alone without an epoch
counts as a failure of the trial, or one that kills its process would be leased for ever.
"""

from sqlalchemy import and_, case, or_, select

from dropt.storage.tables import measurement, trial

MAX_FAILURES = 3  # in all; the last attempt is alone in its lease
N_BEFORE_ALONE = 2

is_lost = trial.c.state == "running"
was_alone = or_(trial.c.losses >= N_BEFORE_ALONE, trial.c.failures >= N_BEFORE_ALONE)
has_epoch = (
    select(1)
    .where(measurement.c.trial_id == trial.c.id, measurement.c.attempt == trial.c.attempt)
    .correlate(trial)
    .exists()
)
losses_after = trial.c.losses + case((is_lost, 1), else_=0)
failures_after = trial.c.failures + case((and_(is_lost, was_alone, ~has_epoch), 1), else_=0)
is_to_be_alone = or_(losses_after >= N_BEFORE_ALONE, failures_after >= N_BEFORE_ALONE)
is_spent = and_(is_lost, failures_after >= MAX_FAILURES)
