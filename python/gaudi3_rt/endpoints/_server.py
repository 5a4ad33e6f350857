"""How requests are read and answered: one thread with an event loop, and one more that collects metrics.

Connections cost no threads, so slow ones cost nothing but their own time. What waits for nothing is answered in the
loop; metrics, whose collectors may take a while, are collected in the other thread, once for all who wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import queue
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from gaudi3_rt._forks import reset_in_children
from gaudi3_rt.endpoints._http import BadRequestError, Request, Response, error, parse
from gaudi3_rt.endpoints._routes import METRICS, Routes

_log = logging.getLogger(__name__)
_END = b"\r\n\r\n"
_FIRST = frozenset(bytes([one]) for one in b"\r\nABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""What a request can begin with, after an end of line that belongs to the one before."""
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client can have.

    Attributes:
        connections: at a time; of more, those go that have waited longest without asking for anything.
        head_bytes: of a request.
        head_seconds: from its first byte to its last; also until a new connection sends one.
        idle_seconds: from one request of a connection to the next.
        collect_seconds: until metrics are there.
        write_seconds: until an answer is taken.
    """

    connections: int = 512
    head_bytes: int = 16 << 10
    head_seconds: float = 5.0
    idle_seconds: float = 60.0
    collect_seconds: float = 10.0
    write_seconds: float = 10.0


class _SlowError(Exception):
    """A request has begun and does not end."""


class Server:
    """Answers requests on sockets that are bound, from :meth:`start` to :meth:`close`.

    Args:
        listeners: the sockets; they are closed with the server.
        routes: the answers.
        limits: what a client can have.
    """

    def __init__(self, listeners: Sequence[socket.socket], routes: Routes, limits: Limits | None = None) -> None:
        self._listeners, self._routes, self._limits = tuple(listeners), routes, limits or Limits()
        self._loop = asyncio.SelectorEventLoop()
        self._stop = asyncio.Event()
        self._sockets: dict[asyncio.Task[None], socket.socket] = {}
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._collector = _Collector(self._loop, routes, self._limits.collect_seconds)
        self._thread = threading.Thread(target=self._run, name="gaudi3_rt endpoints", daemon=True)
        self._is_ours = True
        self._lingers, self._scraped = False, threading.Event()
        reset_in_children(self)

    def start(self) -> None:
        """Begins to answer."""
        for listener in self._listeners:
            listener.setblocking(False)
        self._collector.start()
        self._thread.start()

    def wait_for_scrape(self, seconds: float) -> None:
        """Waits until metrics that are collected from now on have been taken, for so long at most; in a child not."""
        if self._is_ours:
            self._lingers = True
            self._scraped.wait(seconds)

    def close(self) -> None:
        """Ends all connections and joins the threads. In a forked child there is nothing to do."""
        if not self._is_ours:
            return
        self._is_ours = False
        try:
            if self._thread.ident is None:  # it could not be started
                self._end()
            else:
                self._loop.call_soon_threadsafe(self._stop.set)
                self._thread.join()
        finally:
            self._collector.close()

    def _after_fork(self) -> None:
        """A child has none of the threads; it must not keep ports and connections of its parent open."""
        self._is_ours = False
        for one in (*self._listeners, *self._sockets.values()):
            one.close()

    # In the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._end()

    def _end(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._loop.close()

    async def _serve(self) -> None:
        for listener in self._listeners:
            self._listen(listener)
        await self._stop.wait()
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        ending: set[asyncio.Future[None]] = set(self._sockets)
        while ending:  # wait_for() may swallow a cancellation that comes as it ends (before Python 3.12)
            for task in ending:
                task.cancel()
            _, ending = await asyncio.wait(ending, timeout=0.05)
        await asyncio.sleep(0)  # transports close their sockets one turn later

    def _listen(self, listener: socket.socket) -> None:
        # not sock_accept(): cancelled as it succeeds, it loses the connection unclosed
        if not self._stop.is_set():
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as fault:  # a client that has gone again, or no more files
            if fault.errno in _NO_FILES:
                self._evict()
                self._loop.remove_reader(listener)
                self._loop.call_later(0.05, self._listen, listener)
            return
        if len(self._sockets) >= self._limits.connections and not self._evict():
            connection.close()
            return
        task = self._loop.create_task(self._talk(connection))
        self._sockets[task], self._waiting[task] = connection, None
        task.add_done_callback(self._forget)

    def _evict(self) -> bool:
        """The connection goes that has waited longest for a request to be complete; whether there was one."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        del self._waiting[oldest]
        with contextlib.suppress(OSError):  # not cancel(), which wait_for() may swallow before Python 3.12
            self._sockets[oldest].shutdown(socket.SHUT_RDWR)
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._sockets.pop(task).close()
        self._waiting.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection ended unexpectedly", exc_info=task.exception())

    async def _talk(self, connection: socket.socket) -> None:
        """One connection, from its first request to its last."""
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection, limit=self._limits.head_bytes)
        writer.transport.set_write_buffer_limits(0)  # so that drain() waits until all is taken
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                patience = self._limits.head_seconds
                while await self._turn(reader, writer, patience):
                    patience = self._limits.idle_seconds
        finally:
            writer.transport.abort()

    async def _turn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> bool:
        """One request and its answer; whether another may follow."""
        request: Request | None = None
        is_last = False
        try:
            head = await self._read(reader, patience)
            is_last = self._lingers
            request = parse(head)
            response = self._routes.answer(request) or await self._collector.collect(request)
        except asyncio.LimitOverrunError:
            response = error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        except _SlowError:
            response = error(HTTPStatus.REQUEST_TIMEOUT, "the request takes too long")
        except BadRequestError:
            response = error(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")
        keeps_alive = request is not None and request.keeps_alive
        is_head = request is not None and request.method == "HEAD"
        writer.write(response.encode(with_body=not is_head, keeps_alive=keeps_alive))
        await asyncio.wait_for(writer.drain(), self._limits.write_seconds)
        if is_last and request is not None and request.path == METRICS and response.status is HTTPStatus.OK:
            self._scraped.set()
        if not keeps_alive:  # what the client still sends is taken for a moment, or it might never see the answer
            writer.write_eof()
            await asyncio.wait_for(reader.read(1 << 16), 0.2)
        return keeps_alive

    async def _read(self, reader: asyncio.StreamReader, patience: float) -> bytes:
        task = asyncio.current_task()
        if task is not None:
            self._waiting[task] = None
        first = await asyncio.wait_for(reader.readexactly(1), patience)
        if first not in _FIRST:  # such as TLS, which would not send the end that is waited for
            raise BadRequestError
        try:
            rest = await asyncio.wait_for(reader.readuntil(_END), self._limits.head_seconds)
        except asyncio.TimeoutError:
            raise _SlowError from None
        if task is not None:
            self._waiting.pop(task, None)
        return first + rest


class _Collector:
    """A thread that collects metrics. Requests for the same that wait at the same time get the same answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, routes: Routes, seconds: float) -> None:
        self._loop, self._routes, self._seconds = loop, routes, seconds
        self._waiting: dict[tuple[str, ...], asyncio.Future[Response]] = {}
        self._jobs: queue.SimpleQueue[tuple[tuple[str, ...], Request, asyncio.Future[Response]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gaudi3_rt metrics", daemon=True)

    def start(self) -> None:
        """Begins to wait for work."""
        self._thread.start()

    def close(self) -> None:
        """Ends; a collector that hangs is not waited for."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join(1.0)

    async def collect(self, request: Request) -> Response:
        """In the loop: the answer, or that it takes too long."""
        key = (request.query, *(request.headers.get(name, "") for name in ("accept", "accept-encoding")))
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = self._loop.create_future()
            self._jobs.put((key, request, future))
        await asyncio.wait({future}, timeout=self._seconds)
        if future.done() and not future.cancelled():
            return future.result()
        self._forget(key, future)
        future.cancel()
        return error(HTTPStatus.SERVICE_UNAVAILABLE, "the metrics are not there in time", Retry_After="10")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            key, request, future = job
            if future.cancelled():
                continue
            self._forget(key, future)  # from now on: the loop might be busy, and add requests that come later
            response = self._routes.render(request)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_settle, future, response)

    def _forget(self, key: tuple[str, ...], future: asyncio.Future[Response]) -> None:
        """Who asks for the same from now on gets another answer."""
        if self._waiting.get(key) is future:
            self._waiting.pop(key, None)


def _settle(future: asyncio.Future[Response], response: Response) -> None:
    if not future.done():
        future.set_result(response)
