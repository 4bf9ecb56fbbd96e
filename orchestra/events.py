"""The place of events, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "events",
    """
    emit_event Event Resource RelatedResource ResourceSpecification EventTrigger MetricTrigger CompoundTrigger
    SequenceTrigger DeploymentEventTrigger DeploymentMetricTrigger DeploymentCompoundTrigger
    DeploymentSequenceTrigger get_events_client get_events_subscriber
    """,
)
