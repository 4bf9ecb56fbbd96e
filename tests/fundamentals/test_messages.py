"""Messages: flows are sent values while they run."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from orchestra import flow, runtime
from orchestra.errors import InputTimeout
from orchestra.input import receive_input, send_input


def test_a_flow_receives_what_it_is_sent() -> None:
    """From anywhere, by the id of its run; in order."""
    ids: SimpleQueue[str] = SimpleQueue()

    @flow
    def adding() -> int:
        ids.put(str(runtime.flow_run.id))
        numbers = receive_input(int, timeout=30)
        return 10 * int(numbers.next()) + int(numbers.next())

    def send() -> None:
        run_id = ids.get(timeout=30)
        send_input(1, flow_run_id=run_id)
        send_input(2, flow_run_id=run_id)

    sender = threading.Thread(target=send)
    sender.start()

    assert adding() == 12
    sender.join()


def test_a_flow_may_send_to_itself_and_iterate_until_nothing_comes() -> None:
    """`timeout` is for each value, in seconds; when it is over the iteration ends."""

    @flow
    def talking_to_itself() -> list[str]:
        for word in ("one", "two"):
            send_input(word, flow_run_id=str(runtime.flow_run.id))
        return list(receive_input(str, timeout=0))

    assert talking_to_itself() == ["one", "two"]


def test_waiting_for_a_message_that_does_not_come_raises() -> None:
    """Where one is asked for by `next()`."""

    @flow
    def waiting() -> int:
        return int(receive_input(int, timeout=0.01).next())

    with pytest.raises(InputTimeout, match="no input within"):
        waiting()
