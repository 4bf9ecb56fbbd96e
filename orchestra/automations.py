"""The place of automations, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "automations",
    """
    Automation AutomationCore Posture EventTrigger MetricTrigger MetricTriggerQuery CompoundTrigger
    SequenceTrigger RunDeployment PauseDeployment ResumeDeployment PauseWorkQueue ResumeWorkQueue PauseWorkPool
    ResumeWorkPool PauseAutomation ResumeAutomation CancelFlowRun SuspendFlowRun ChangeFlowRunState
    SendNotification CallWebhook DeclareIncident DoNothing
    """,
)
