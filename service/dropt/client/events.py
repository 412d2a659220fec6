"""What happens to a job: its stored events, and the stream of new ones."""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dropt.client.connection import Connection, part, raise_problem, reaching
from dropt.errors import DroptError, Internal
from dropt.spec.results import EventRead

QUIET_S: Final = 40.0  # without a byte, not even one of the pings each 15 s: the stream is dead
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0  # before the stream is taken up again


class StreamedEvent(NamedTuple):
    """One event of a stream; without an id it is not stored, and not repeated."""

    id: str
    type: str
    data: str


class Events(Connection):
    """What a user hears of a job."""

    def iterate_events(self, job_id: str, *, after: int = 0) -> Iterator[EventRead]:
        """Every stored event of a job above a sequence, in order."""
        return self._items(f"/v1/jobs/{part(job_id)}/events", EventRead, {"after": after})

    def follow_events(
        self, job_id: str, *, after: int = 0, patience_s: float = 60.0
    ) -> Iterator[EventRead]:
        """The same and those to come, each once, until the job has ended.

        A stream that breaks off is taken up where it ended, for `patience_s` without a success.

        Raises:
            ServiceUnreachable: the service stayed away for longer.
        """
        pause_s, give_up_at = FIRST_PAUSE_S, time.monotonic() + patience_s
        while True:
            try:
                for event in self._stream(job_id, after):
                    after, pause_s = event.sequence, FIRST_PAUSE_S
                    give_up_at = time.monotonic() + patience_s
                    yield event
                if self._is_over(job_id, after):
                    return
            except DroptError as error:
                if error.status < Internal.status or time.monotonic() > give_up_at:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _stream(self, job_id: str, after: int) -> Iterator[EventRead]:
        """Stored events as one stream tells them, until it ends."""
        path = f"/v1/jobs/{part(job_id)}/events/stream"
        headers = {"Accept": "text/event-stream", "Last-Event-ID": f"{after}"}
        with (
            reaching(self.url),
            self._http.stream("GET", path, headers=headers, timeout=QUIET_S) as response,
        ):
            raise_problem(response)
            for event in read_stream(response.iter_lines()):
                if event.id:
                    yield EventRead.model_validate_json(event.data)

    def _is_over(self, job_id: str, after: int) -> bool:
        """Whether a stream ended because the job did, not because something cut it in silence."""
        response = self._send("GET", f"/v1/jobs/{part(job_id)}")
        is_done: bool = json.loads(response.content)["done"]
        return is_done and next(self.iterate_events(job_id, after=after), None) is None


def read_stream(lines: Iterable[str]) -> Iterator[StreamedEvent]:
    """The events in the lines of a stream; what is not closed by an empty line was cut off."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield StreamedEvent(
                    fields.get("id", ""), fields.get("event", "message"), fields["data"]
                )
            fields = {}
            continue
        name, _, value = line.partition(":")
        if name:  # a line that begins with a colon is a ping
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
