"""Errors cross processes: each one is pickled in one and raised again in another."""

from __future__ import annotations

import inspect
import pickle

import pytest

from orchestra import errors

PUBLIC = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, BaseException)]
#: The facts of those whose constructor takes other than one sentence.
FACTS: dict[str, tuple[object, ...]] = {
    "NoBroker": (),
    "DatabaseNeeded": ("http://127.0.0.1:4200", "sqlite:////srv/orchestra.db"),
    "ForeignThread": ("task 'load'",),
    "OtherVersion": ("flows:etl", "2", "1"),
    "StaticFlowError": ("etl", "sleeps", "flows.py:12"),
    "ValueTooLarge": ("the result", 3_000, 2_000),
    "TaskFailed": ("KeyError", "'a'", "Traceback…"),
    "UpstreamFailed": ("load-0", "ValueError: no"),
    "NonDeterministic": ("0", 3, "0/load-1", None),
    "ResultStorageUnavailable": ("s3://kept", "a result cannot be written", "refused"),
    "TransactionNotFound": ("5f0c", "txn-0", []),
    "FlowRunNotFound": ("5f0c",),
    "TaskRunNotFound": ("5f0c",),
    "FlowNotFound": ("etl",),
    "GraphvizNotFound": ("the program dot",),
    "ImageNotBuilt": ("etl:1", "no engine answers"),
    "SourceUnavailable": ("https://example.org/etl.git", "no such host"),
    "NotThereYet": ("orchestra.events", "emit_event", "events"),
    "DbTransactionTimeout": (2.5,),
    "SearchTooLong": (2.5,),
    "GraphTooLarge": ("5f0c", 2_000),
    "DefinitionNotFound": ("flows:etl", "no module named 'flows'"),
    "DeploymentNotFound": ("etl/nightly",),
    "ScheduleNotFound": ("etl/nightly", "daily"),
    "WorkPoolNotFound": ("etl",),
    "WorkerNotFound": ("etl", []),
    "WorkQueueNotFound": ("etl", "slow"),
    "AlreadyThere": ("work pool", "etl", "take another name"),
    "IllegalTransition": ("5f0c", "COMPLETED", "cancelled"),
    "NotAllowed": ("grafana", "cancel", "flow run 5f0c", "run"),
}


def made(kind: type[BaseException]) -> BaseException:
    """An error of this kind, as orchestra would raise it."""
    error = kind(*FACTS.get(kind.__name__, ("what happened",)))
    error.add_note("and a note")
    return error


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_every_error_survives_a_pickle(kind: type[BaseException], protocol: int) -> None:
    """The same type, facts and sentence come back."""
    error = made(kind)

    back = pickle.loads(pickle.dumps(error, protocol))

    assert (type(error), str(error), vars(error)) == (type(back), str(back), vars(back))


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_error_is_a_sentence_with_its_facts(kind: type[BaseException]) -> None:
    """No error is without words, nor keeps back what it was told."""
    text = str(made(kind))

    assert text
    assert all(
        str(fact).replace("3000", "3,000").replace("2000", "2,000") in text
        for fact in FACTS.get(kind.__name__, ())
        if fact
    )


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_errors_and_signals_are_two_trees(kind: type[BaseException]) -> None:
    """`except Exception` in a body catches every error and no signal."""
    assert issubclass(kind, errors.OrchestraError) is issubclass(kind, Exception)
    assert issubclass(kind, errors.Signal) is not issubclass(kind, Exception)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.RunTimeout, TimeoutError),
        (errors.ResultTimeout, TimeoutError),
        (errors.FlowRunNotFound, LookupError),
        (errors.ConfigurationError, ValueError),
        (errors.ParameterTypeError, TypeError),
        (errors.MissingContextError, RuntimeError),
    ],
)
def test_errors_are_also_the_builtin_that_fits(kind: type[Exception], builtin: type[Exception]) -> None:
    """Code that knows only Python's own errors catches them too."""
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", [errors.Fenced, errors.Terminated])
def test_what_takes_a_claim_away_says_so_in_the_log(kind: type[BaseException]) -> None:
    """Though whoever raises it gives no reason: the log says why the work goes on elsewhere."""
    assert str(kind())
