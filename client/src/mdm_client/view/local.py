"""A server on 127.0.0.1 behind a guard: its port, questions that its page asks, and how it serves."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from mdm_wire.errors import Invalid, MdmError

from mdm_client.dicomweb.server import error_response
from mdm_client.view.guard import HOST

#: Answers a question, a JSON object, by what can be written as JSON.
Answer = Callable[[dict[str, Any]], Any]
#: Runs a blocking call in a thread.
Run = Callable[[Callable[[], Any]], Awaitable[Any]]
_MALFORMED = "a question is a JSON object with the fields it needs"


def take_port(port: int) -> socket.socket:
    """Return a socket bound to a port of 127.0.0.1, 0 for a free one.

    Raises:
        Invalid: PORT_TAKEN.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
    except OSError as error:
        taken.close()
        raise Invalid("PORT_TAKEN", f"{HOST}:{port}: cannot be used ({error.strerror}); leave --port out") from error
    return taken


def question(run: Run, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler for a question that the page asks by POST."""

    async def ask(request: web.Request) -> web.StreamResponse:
        try:
            asked = await request.json() if request.content_type == "application/json" else None
            if not isinstance(asked, dict):
                raise Invalid("QUESTION_MALFORMED", "a question is a JSON object")
            found = await run(lambda: answer(asked))
            return web.Response(text=json.dumps(found, ensure_ascii=False), content_type="application/json")
        except MdmError as error:
            return error_response(error)
        except (ValueError, KeyError, TypeError, AttributeError):
            return error_response(Invalid("QUESTION_MALFORMED", _MALFORMED))

    return ask


async def serve(app: web.Application, taken: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until cancelled; `ready` is called when requests are taken."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, taken).start()
        ready()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()
