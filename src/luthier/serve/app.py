"""The endpoints: reads a request, lets the worker write, sends what it wrote.

    POST /v1/chat/completions     messages in the run's own chat template
    POST /v1/completions          plain text, or token ids
    GET  /v1/models               base and runs by name
    GET  /health                  whether answers are written; needs no key

Not covered: embeddings, OpenAI's Responses API, stored conversations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from luthier.serve.door import Door
from luthier.serve.exchange import Exchange, GoneError
from luthier.serve.models import Served
from luthier.serve.refusals import ApiError, broken
from luthier.serve.requests import Asked, ChatRequest, CompletionRequest, read
from luthier.serve.shapes import ChatShape, CompletionShape, Shape, server_sent
from luthier.serve.worker import Worker

NOBODY = Response(status_code=400)
"""For a client that has gone: nothing of it is sent."""


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        most_tokens: Longest answer.
        seconds: Until the deadline.
    """

    most_tokens: int = 1024
    seconds: float = 600.0


def make_app(
    models: Mapping[str, Served],
    worker: Worker,
    door: Door,
    limits: Limits,
    report: Callable[[BaseException], None],
    created: int = 0,
) -> FastAPI:
    """The application.

    Args:
        models: By name.
        worker: Writes; started by the caller.
        door: Checks who comes in.
        limits: Of a request.
        report: Told of an exception that nobody foresaw.
        created: When the models were loaded, in seconds of the epoch.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # its pages load scripts from elsewhere
    desk = _Desk(models, worker, door, limits)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health(request: Request) -> Response:
        door.check_host(request)
        writing, waiting = worker.load
        status = "ok" if worker.alive else "down"
        return JSONResponse({"status": status, "writing": writing, "waiting": waiting}, 200 if worker.alive else 503)

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        desk.admit(request)
        return JSONResponse({"object": "list", "data": [_described(name, created) for name in models]})

    @app.get("/v1/models/{name:path}")
    async def one_model(request: Request, name: str) -> Response:
        desk.admit(request)
        return JSONResponse(_described(desk.model(name).name, created))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await desk.read(ChatRequest, request)
        conversation = asked.conversation()
        return await desk.answer(request, asked, lambda model: [model.chat_ids(conversation)], 1, ChatShape)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        asked = await desk.read(CompletionRequest, request)
        prompts = asked.prompts()

        def ids(model: Served) -> list[list[int]]:
            return [model.text_ids(prompt) for prompt in prompts]

        return await desk.answer(request, asked, ids, len(prompts), CompletionShape)

    _let_errors_speak(app, report)
    return app


def _described(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "luthier"}


def _let_errors_speak(app: FastAPI, report: Callable[[BaseException], None]) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        shown = f"{request.method} {request.url.path}"[:200]
        refusal = ApiError(error.status_code, f"{error.detail}: {shown}", code="unknown_url", headers=error.headers)
        return await refused(request, refusal)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(GoneError)
    async def gone(request: Request, error: Exception) -> Response:
        return NOBODY

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        report(error)
        return JSONResponse(broken().body(), 500)


@dataclass(frozen=True)
class _Desk:
    models: Mapping[str, Served]
    worker: Worker
    door: Door
    limits: Limits

    def admit(self, request: Request) -> None:
        self.door.check_host(request)
        self.door.check_key(request)

    async def read(self, kind: Any, request: Request) -> Any:
        self.admit(request)
        return read(kind, await self.door.body(request))

    def model(self, name: str) -> Served:
        if name not in self.models:
            found = f"The model '{name[:100]}' does not exist; there are: {', '.join(self.models)}"
            raise ApiError(404, found, param="model", code="model_not_found")
        return self.models[name]

    async def answer(
        self,
        request: Request,
        asked: Asked,
        prompts: Callable[[Served], list[list[int]]],
        prompt_count: int,
        shape_of: type[Shape],
    ) -> Response:
        exchange = Exchange(
            self.worker,
            self.limits.seconds,
            model=self.model(asked.model),
            prompts=prompts,
            sampling=asked.sampling(self.limits.most_tokens),
            answers=asked.answers,
            prompt_count=prompt_count,
        )

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        await exchange.begin(gone)
        shape = shape_of(asked.model, asked.answers * prompt_count)
        if asked.stream:
            return _Stream(exchange, shape, asked.include_usage)
        return JSONResponse(shape.whole(await exchange.all(gone), exchange.prompt_tokens))


class _Stream(StreamingResponse):
    """Sends pieces as they come; ends the writing however the sending ends."""

    def __init__(self, exchange: Exchange, shape: Shape, include_usage: bool) -> None:
        super().__init__(_events(exchange, shape, include_usage), media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.close()


async def _events(exchange: Exchange, shape: Shape, include_usage: bool) -> AsyncIterator[bytes]:
    more = {"usage": None} if include_usage else {}
    try:
        for opening in shape.openings():
            yield server_sent({**opening, **more})
        async for event in exchange:
            yield server_sent({**shape.chunk(event), **more})
        if include_usage:
            yield server_sent(shape.usage_chunk(exchange.prompt_tokens, exchange.completion_tokens))
        yield b"data: [DONE]\n\n"
    except ApiError as refusal:  # too late for a status
        yield server_sent(refusal.body())
