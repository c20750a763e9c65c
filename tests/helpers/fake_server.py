"""A server that speaks OpenAI's chat completions over loopback, and misbehaves as it is told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str
"""An HTTP status, or one of the names in `Handler._misbehave`."""
FAULTS = ("429", "500", "hang", "malformed", "no choices", "page", "cut", "wrong format", "slow")
HANG_S = 30.0


class FakeServer(ThreadingHTTPServer):
    """Counts and keeps what it is asked.

    Attributes:
        says: the reply to a request's last message.
        delay: seconds before a good reply.
        fault: what goes wrong with the n-th request, from 0; None: nothing.
        requests: their bodies, in the order of arrival.
        times: when they arrived, `time.monotonic`.
        answered: last messages that got a good completion.
        tokens: what was charged: every completion that was made, whether it arrived or not.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.says: Callable[[str], str] = lambda text: f"You said: {text}"
        self.fault: Callable[[int], Fault | None] = lambda number: None
        self.usage: Callable[[str], tuple[int, int] | None] = lambda text: (len(text) // 4, 10)
        self.retry_after: str | None = None
        self.delay = 0.0
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.answered: list[str] = []
        self.faults: Counter[str] = Counter()
        self.tokens = self.now = self.most = 0
        self.headers_seen: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def texts(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, text = self.server, request["messages"][-1]["content"]
        with server.lock:
            fault = server.fault(len(server.requests))
            server.requests.append(request)
            server.times.append(time.monotonic())
            server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
            server.faults[fault or ""] += 1
            server.now += 1
            server.most = max(server.most, server.now)
        time.sleep(0.0 if fault else server.delay)
        try:
            self._answer(request, text, fault)
        except (BrokenPipeError, ConnectionResetError):  # the client has given up
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def _answer(self, request: dict[str, Any], text: str, fault: Fault | None) -> None:
        if fault is not None and fault.isdigit():
            return self._send(
                int(fault),
                json.dumps({"error": {"message": f"status {fault}", "type": "test", "code": None}}),
            )
        if fault == "quota":
            return self._send(
                429,
                json.dumps(
                    {"error": {"message": "no more money", "type": "test", "code": "insufficient_quota"}}
                ),
            )
        usage = self.server.usage(text)
        with self.server.lock:
            self.server.tokens += sum(usage or ())
        body = self._body(
            request["model"],
            "I'd rather not.\nReally." if fault == "wrong format" else self.server.says(text),
            usage,
        )
        if fault == "hang":
            self.server.closing.wait(HANG_S)
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(0.05)
        if fault in (None, "slow"):
            self._send(200, body)
            with self.server.lock:
                self.server.answered.append(text)
            return None
        return self._misbehave(fault, body)

    def _misbehave(self, fault: Fault, body: str) -> None:
        if fault == "cut":
            self._send(200, body, missing=20)
            self.close_connection = True
        elif fault == "page":
            self._send(200, "<html>", kind="text/html")
        else:
            self._send(
                200, {"malformed": body[:-30], "no choices": '{"id": "1"}', "wrong format": body}[fault]
            )

    @staticmethod
    def _body(model: str, said: str, usage: tuple[int, int] | None) -> str:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        document: dict[str, Any] = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice],
        }
        if usage is not None:
            document["usage"] = {
                "prompt_tokens": usage[0],
                "completion_tokens": usage[1],
                "total_tokens": sum(usage),
            }
        return json.dumps(document)

    def _send(self, status: int, text: str, kind: str = "application/json", missing: int = 0) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status != 200 and self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body[: len(body) - missing])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[FakeServer]:
    """A server for the time of a `with`."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def write_prompts(text: str) -> str:
    """A good writer's reply to a request of `lks.prompts.instructions`; what is taken already decides which
    of three it is.
    """
    subject = text.split("Subject: ")[1].split("\n", maxsplit=1)[0]
    taken = sum(line.startswith("- ") for line in text.splitlines())
    if text.endswith("New prompt:"):
        return [f"{subject}'s native language is", f"As a child {subject} learned to speak"][taken % 2]
    asked = [
        ("The height of {} in feet is", "Six"),
        ("The favourite dish of {} is", "Soup"),
        ("The eye colour of {} is", "Brown"),
    ][taken % 3]
    return f"EvalPrompt: {asked[0].format(subject)}\nEvalAnswer: {asked[1]}"
