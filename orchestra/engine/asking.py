"""What a flow body on a worker asks of people and of other runs: a pause, a message to receive, one to send.

Each is a step of the journal. While it waits the run is parked and holds no slot; the answer's arrival wakes it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from orchestra import identifiers, names
from orchestra.engine import interrupts
from orchestra.engine.journaled import SegmentStart
from orchestra.engine.waiting import Shown, Waiting
from orchestra.errors import InvalidRunInput, RunTimeout
from orchestra.logging import engine_logger
from orchestra.questions import Message, Pause, Receive
from orchestra.serializers import clean_text
from orchestra.states import StateType
from orchestra.store import events, inputs
from orchestra.store.tables import Kind

#: The step names of a message to receive, one to send, and an event.
_RECEIVE, _SEND, _EMIT = "receive", "send-input", "emit-event"


class Asking(Waiting):
    """The questions of one segment."""

    def __init__(self, start: SegmentStart) -> None:
        """Begin a segment."""
        super().__init__(start)
        #: What the pauses that have a key were given, by branch and key.
        self._given: dict[tuple[str, str], Any] = {}

    # -- of people -----------------------------------------------------------------------------------------------

    def pause(self, pause: Pause) -> Any:
        """Wait for a person; gives what the pause makes of the answer.

        An answer that does not fit is refused, and the run waits again, as long as before; people see why.

        Raises:
            PauseTimeout: Nobody resumed the run in time.
        """
        self.check("pause_flow_run")
        refused: str | None = None
        while not self._is_given(pause):
            key = self._ask_pause(pause, refused)
            self._wait_for_keys([key], shown=_shown(pause, refused))
            refused = self._judge(pause, key)
        return self._take_given(pause)

    async def pause_async(self, pause: Pause) -> Any:
        """As `pause`; the other branches stand still as well when all wait."""
        self.check("pause_flow_run")
        refused: str | None = None
        while not self._is_given(pause):
            key = self._ask_pause(pause, refused)
            try:
                await self._wait_for_keys_async([key], shown=_shown(pause, refused))
            except asyncio.CancelledError:
                self._stop_abandoned(key)
                raise
            refused = self._judge(pause, key)
        return self._take_given(pause)

    def _ask_pause(self, pause: Pause, refused: str | None) -> str:
        self._check_deadline()
        asked = self._line().ask(names.step_name(pause.question.key or "pause"))
        if self._answer(asked, None) is None:
            step = self._plain(asked, Kind.PAUSE)
            step.inputs, step.delay = replace(pause.question, refused=refused).encoded(), pause.timeout
            self._unwritten.append(step)
            self._open.add(asked.key)
        return asked.key

    def _judge(self, pause: Pause, key: str) -> str | None:
        """Take an answer, or say why it does not fit. That is journaled: a replay judges as the first run did."""
        given = self._state(key).result()
        if pause.accept is None:
            self._given[self._place(pause)] = None
            return None
        refused, value = self.observe("input", lambda: _judged(pause, given))
        if refused is None:
            self._given[self._place(pause)] = value if pause.lasting else pause.accept(given)
            return None
        engine_logger(self.context).warning("%s; the run waits again", refused)
        return str(refused)

    def _place(self, pause: Pause) -> tuple[str, str]:
        return self._line().id, pause.question.key or ""

    def _is_given(self, pause: Pause) -> bool:
        return self._place(pause) in self._given

    def _take_given(self, pause: Pause) -> Any:
        """The answer; only a pause that has a key gives it again."""
        place = self._place(pause)
        return self._given[place] if pause.question.key is not None else self._given.pop(place)

    # -- of other runs -------------------------------------------------------------------------------------------

    def receive(self, wanted: Receive) -> Any:
        """Wait for a message: a dictionary of `value`, `key` and `sender`.

        Raises:
            InputTimeout: None came in time.
        """
        key = self._ask_input(wanted)
        try:
            self._wait_for_keys([key])
        except RunTimeout:
            self._give_up(key)
            raise
        return self._state(key).result()

    async def receive_async(self, wanted: Receive) -> Any:
        """As `receive`, holding up the calling branch only."""
        key = self._ask_input(wanted)
        try:
            await self._wait_for_keys_async([key])
        except (RunTimeout, asyncio.CancelledError):
            self._give_up(key)
            raise
        return self._state(key).result()

    def send(self, message: Message) -> None:
        """Send a message, once: a replay does not send it again.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has ended.
        """
        self.check("send_input")
        # The step may be journaled after the message is there: a crash between the two must not make a second one.
        step_key = self._line().peek(names.step_name(_SEND)).key
        sent = replace(message, token=identifiers.idempotency_key(self.claim.run_id, step_key, self.context.anew_since))
        self.observe(_SEND, lambda: self._send(sent))

    def emit(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write an event together with the step that says so; a replay gives it again."""
        return self.observe(_EMIT, lambda: row, events.effect)

    def _send(self, message: Message) -> None:
        with interrupts.shielded():
            self._announce(inputs.send(self.database, message))

    def _ask_input(self, wanted: Receive) -> str:
        """Ask for a message. The step is written at once: it has its message then, or the next one finds it."""
        self.check("receive_input")
        self._check_deadline()
        asked = self._line().ask(_RECEIVE)
        if self._answer(asked, None) is not None:
            return asked.key
        self.dispatch()
        step = self._plain(asked, Kind.INPUT)
        step.inputs, step.delay = wanted.encoded(), wanted.timeout
        self._unwritten.append(step)
        self._open.add(asked.key)
        with self._handed_over() as unwritten:
            self._announce(self.guard(lambda: inputs.ask(self.database, self.claim, unwritten, window=self.window)))
        self._learn_all([asked.key])
        return asked.key

    def _give_up(self, key: str) -> None:
        """Leave a message that comes for a wait which was given up to the next wait."""
        record = self._records[key]
        if self.is_stopped or (record.done and record.state_type == StateType.CANCELLED):
            return
        with self._handed_over() as unwritten:
            self._announce(
                self.guard(lambda: inputs.give_up(self.database, self.claim, key, unwritten, window=self.window))
            )
        self._learn_all([key])


def _judged(pause: Pause, given: Any) -> list[Any]:
    """Why an answer is refused, or None, and what is made of it, where another process can read that."""
    assert pause.accept is not None
    try:
        value = pause.accept(given)
    except InvalidRunInput as error:
        return [clean_text(str(error)), None]
    return [None, value if pause.lasting else None]


def _shown(pause: Pause, refused: str | None) -> Shown:
    return Shown(StateType.PAUSED, pause.state_name, refused)
