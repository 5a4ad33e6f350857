"""No test asks a name server: names that end in .invalid have no address, and that is known here."""

import socket


def resolve_here(monkeypatch):
    """Has lookups of such names fail as they would."""
    real = socket.getaddrinfo

    def look_up(host, *arguments, **options):
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
