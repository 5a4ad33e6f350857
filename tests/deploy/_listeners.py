"""Stand-ins on loopback for those whom Alertmanager tells, and for the vendor's exporter."""

import json
import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VENDOR = """\
habanalabs_temperature_onchip{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 55
habanalabs_power_mW{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 350500
habanalabs_utilization{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 40
habanalabs_memory_used_bytes{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 1000
habanalabs_memory_total_bytes{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 100000
habanalabs_clock_soc_mhz{Serial="S",UUID="U",device="S",id="5",fit="f",spi="s",driver="d"} 1650
"""


class Heard:
    """What has arrived, as (path, authorization, content); waited for by :meth:`wait_for`."""

    def __init__(self):
        self.messages = []
        self._changed = threading.Condition()

    def add(self, path, authorization, content):
        """Somebody was told something."""
        with self._changed:
            self.messages.append((path, authorization, content))
            self._changed.notify_all()

    def wait_for(self, path, text, seconds):
        """Authorization and content of the first message to ``path`` that has ``text`` somewhere."""

        def found():
            return [(who, said) for to, who, said in self.messages if to == path and text in json.dumps(said)]

        with self._changed:
            assert self._changed.wait_for(found, seconds), (path, text, self.messages)
            return found()[0]


class Web(BaseHTTPRequestHandler):
    """The vendor's exporter to those who ask, Slack, PagerDuty or a webhook to those who tell."""

    def do_GET(self):
        """Metrics."""
        self._answer(200, VENDOR.encode())

    def do_POST(self):
        """An alert; PagerDuty takes it with a status of its own."""
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard.add(self.path, self.headers.get("Authorization"), content)
        self._answer(202 if self.path == "/pagerduty" else 200, b"ok")

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to get a message."""

    def handle(self):
        """One connection."""
        self._say("220 loopback")
        login = None
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "DATA":
                self._say("354 go on")
                text = b"".join(iter(self.rfile.readline, b".\r\n")).decode()
                self.server.heard.add("smtp", login, text)
            elif word == "AUTH":
                login = rest
            self._say(
                {"EHLO": "250-loopback\r\n250 AUTH PLAIN", "AUTH": "235 in", "QUIT": "221 bye"}.get(word, "250 ok")
            )

    def _say(self, text):
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def listening():
    """What was heard, and the ports of HTTP and of SMTP."""
    heard = Heard()
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Web) as web,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as mail,
    ):
        servers = (web, mail)
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
        for server, thread in zip(servers, threads, strict=True):
            server.heard = heard
            thread.start()
        try:
            yield heard, web.server_port, mail.server_address[1]
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                thread.join()
