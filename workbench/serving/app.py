"""Web application over a `ModelService`: OpenAI's paths, keys, limits, streams and errors."""

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from lks.io.lines import json_line
from lks.io.untrusted import parse_json
from workbench.serving.protocol import (
    ChatRequest,
    Completion,
    CompletionFields,
    Form,
    Refusal,
    TokenUsage,
    understood,
)
from workbench.serving.service import ModelService, Prepared, Rules
from workbench.serving.ticket import Piece, Ticket

log = logging.getLogger("lks.serve")


def make_app(service: ModelService) -> FastAPI:
    """Create the application; the caller starts and ends its engine."""
    app = FastAPI(title="lks serve", docs_url=None, redoc_url=None, openapi_url=None)
    began = int(time.time())

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        log.info(
            "%s %s %d %s %s",
            request.method,
            request.url.path,
            refusal.status,
            refusal.code or refusal.kind,
            refusal.param or "",
        )
        return _refusal(refusal)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}."))

    @app.get("/health")
    async def health() -> JSONResponse:
        well = not service.engine.failed
        return JSONResponse(
            {"status": "ok" if well else "failed", "answers": service.engine.load}, 200 if well else 503
        )

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        _check_caller(request, service.rules)
        return JSONResponse(
            {"object": "list", "data": [_model(service, name, began) for name in service.names]}
        )

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> JSONResponse:
        _check_caller(request, service.rules)
        if name not in service.names:
            raise Refusal(
                404, f"The model {name!r} is not served here.", param="model", code="model_not_found"
            )
        return JSONResponse(_model(service, name, began))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(service, request, Completion)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(service, request, ChatRequest)

    return app


def _model(service: ModelService, name: str, began: int) -> dict[str, object]:
    facts = {"batches": service.batches(name), **service.facts.get(name, {})}
    return {"id": name, "object": "model", "created": began, "owned_by": "lks", "patch": facts}


def _refusal(refusal: Refusal) -> JSONResponse:
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(refusal.status)
    return JSONResponse(refusal.body, refusal.status, headers)


def _check_caller(request: Request, rules: Rules) -> None:
    """Check the caller's API key, and the name by which the caller addresses this server.

    Raises:
        Refusal: one of them is wrong.
    """
    host = (request.url.hostname or "").lower()
    if rules.hosts and host not in rules.hosts:
        raise Refusal(
            403, "This server is not known by that name; call it by its address.", code="wrong_host"
        )
    if rules.key is not None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(
            hashlib.sha256(given.strip().encode()).digest(), hashlib.sha256(rules.key.encode()).digest()
        )
        if kind.lower() != "bearer" or not same:
            raise Refusal(
                401,
                "A valid API key is needed: Authorization: Bearer KEY.",
                "authentication_error",
                code="invalid_api_key",
            )


async def _document(request: Request, most: int) -> object:
    """Read and parse the JSON body of a request.

    Raises:
        Refusal: the body is too large, has another content type or is not JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "The request's Content-Type must be application/json.")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise Refusal(413, f"The request has more than {most} bytes.", code="request_too_large")
    try:
        return parse_json(bytes(content))
    except ValueError:
        raise Refusal(400, "The request is not valid JSON.") from None


async def _answer(service: ModelService, request: Request, kind: type[CompletionFields]) -> Response:
    began = time.perf_counter()
    _check_caller(request, service.rules)
    asked = understood(kind, await _document(request, service.rules.body))
    assert isinstance(asked, Completion | ChatRequest)
    prepared = await asyncio.get_running_loop().run_in_executor(service.reader, service.prepare, asked)
    ticket = service.submit(prepared)
    is_chat = isinstance(asked, ChatRequest)
    form = Form(
        f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time()), asked.model, is_chat
    )

    def done(made: int, status: str) -> None:
        took = time.perf_counter() - began
        log.info(
            "%s %s %s prompt=%d made=%d %.3f s",
            request.url.path,
            asked.model,
            status,
            prepared.prompt_tokens,
            made,
            took,
        )

    if asked.stream:
        parts = _streamed(ticket, form, prepared, asked.with_usage, done)
        return _Stream(parts, ticket)
    try:
        return await _unless_gone(request, _whole(ticket, form, prepared, done))
    finally:
        ticket.cancel()


async def _whole(
    ticket: Ticket, form: Form, prepared: Prepared, done: Callable[[int, str], None]
) -> Response:
    """Return all answers in one response, once they are complete."""
    texts: dict[int, list[str]] = {number: [] for number in range(len(ticket.rows))}
    last: dict[int, Piece] = {}
    while len(last) < len(texts):
        piece = await ticket.news.get()
        if piece.finish == "error":
            done(sum(one.made for one in last.values()), "error")
            raise _failure()
        texts[piece.row].append(piece.text)
        if piece.finish is not None:
            last[piece.row] = piece
    made = sum(piece.made for piece in last.values())
    done(made, "ok")
    whole = {number: "".join(parts) for number, parts in texts.items()}
    return JSONResponse(
        form.whole(
            whole,
            {number: str(piece.finish) for number, piece in last.items()},
            TokenUsage(prepared.prompt_tokens, made),
        )
    )


async def _unless_gone(request: Request, answer: Awaitable[Response]) -> Response:
    """Return the answer unless the client disconnects first; then nobody reads what is returned."""
    working, watching = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=499)
    finally:
        for task in (working, watching):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _streamed(
    ticket: Ticket, form: Form, prepared: Prepared, with_usage: bool, done: Callable[[int, str], None]
) -> AsyncIterator[str]:
    """Yield an answer as server-sent events."""
    made, status = dict.fromkeys(range(len(ticket.rows)), 0), "gone"
    open_rows = set(made)
    try:
        if form.chat:
            for number in made:
                yield _event(form.part(number, "", None, first=True))
        while open_rows:
            piece = await ticket.news.get()
            made[piece.row] = max(made[piece.row], piece.made)
            if piece.finish == "error":
                status = "error"
                yield _event(_failure().body)
                return
            if piece.finish is not None:
                open_rows.discard(piece.row)
            yield _event(form.part(piece.row, piece.text, piece.finish))
        if with_usage:
            yield _event(form.usage(TokenUsage(prepared.prompt_tokens, sum(made.values()))))
        status = "ok"
        yield "data: [DONE]\n\n"
    finally:
        ticket.cancel()
        done(sum(made.values()), status)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json_line(body)}\n\n"


def _failure() -> Refusal:
    return Refusal(
        500, "The answer could not be finished; the server's log says why.", "server_error", code="failed"
    )


class _Stream(StreamingResponse):
    """Server-sent events whose ticket is cancelled however the stream ends."""

    def __init__(self, parts: AsyncIterator[str], ticket: Ticket) -> None:
        super().__init__(parts, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; the client may disconnect at any time."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.cancel()
