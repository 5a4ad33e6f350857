"""Rows for collectives, rendezvous and connections: HCCL, gloo, TCPStore, torchrun, sockets, services."""

from __future__ import annotations

from gaudi3_rt.errors._rows import DEVICES, FIRST_RANK, ON_CPU, SMALLER, Row
from gaudi3_rt.errors._types import (
    HPUDriverError,
    HPUMemoryError,
    HPUNotAvailableError,
    InvalidConfigurationError,
    MissingConfigurationError,
    NetworkConnectionError,
    NetworkError,
    ServiceUnavailableError,
    TrainingStepError,
)

_HCCL = "HCCL: hccl_types.h, get_error_string (HabanaAI/Intel_Gaudi3_Software)"
_TORCH = "torch 2.13.0+cpu, provoked with two processes"
_RENDEZVOUS = "torch: torch/distributed/elastic/rendezvous"
_LINKS = "/opt/habanalabs/qual/gaudi3/bin/manage_network_ifs.sh --status; check HCCL_SOCKET_IFNAME"
_PEERS = "check that all ranks were started, with one MASTER_ADDR and MASTER_PORT, and that the port is open"

SETUP = (
    Row(
        id="backend_unknown",
        pattern=r"Unknown (?:c10d )?backend(?: type)? '?hccl",
        error=InvalidConfigurationError,
        cause="The backend is registered by an import that did not happen.",
        next_command="import habana_frameworks.torch.distributed.hccl before init_process_group",
        source=f"{_TORCH}; habana_frameworks.torch.distributed.hccl",
    ),
    Row(
        id="environment_missing",
        pattern=r"environment variable \w{1,50} expected, but not set",
        error=MissingConfigurationError,
        cause="The process was started without torchrun, and without the variables that torchrun sets.",
        next_command="torchrun --standalone --nproc-per-node 8 train.py",
        source=_TORCH,
    ),
)

HCCL = (
    Row(
        id="hccl_out_of_memory",
        pattern=r"\bhcclOutOfMemory\b",
        error=HPUMemoryError,
        cause="A collective found no memory for its buffers on the device.",
        next_command=SMALLER,
        source=_HCCL,
    ),
    Row(
        id="hccl_no_device",
        pattern=r"\bhcclNoDeviceFound\b|No device found or no device set",
        error=HPUNotAvailableError,
        cause="A collective was called before this process had a device.",
        next_command=DEVICES,
        source=_HCCL,
    ),
    Row(
        id="hccl_initialization",
        pattern=r"\bhcclSocketError\b|Problem with HCCL initialization occurred",
        error=NetworkConnectionError,
        cause="The ranks could not reach each other when HCCL connected them.",
        next_command=f"{_PEERS}; {_LINKS}",
        retryable=True,
        source=_HCCL,
    ),
    Row(
        id="hccl_busy",
        pattern=r"\bhcclTryAgainError\b|\bhcclBusy\b",
        error=ServiceUnavailableError,
        cause="HCCL is still at work on an earlier collective.",
        next_command="wait for the earlier collective: torch.hpu.synchronize()",
        retryable=True,
        source=_HCCL,
    ),
    Row(
        id="hccl_fabric",
        pattern=r"\bhcclLibfabricError\b",
        error=NetworkConnectionError,
        cause="The network between the servers failed.",
        next_command=f"fi_info -l; {_LINKS}",
        source=_HCCL,
    ),
    Row(
        id="hccl_usage",
        pattern=r"\bhccl(?:InvalidArgument|InvalidUsage|Unsupported)\b|The call to HCCL is incorrect",
        error=TrainingStepError,
        cause="A collective was called with tensors, dtypes or a size that HCCL does not take.",
        next_command=ON_CPU,
        source=_HCCL,
    ),
    Row(
        id="hccl_failure",
        pattern=r"\bhccl(?:InternalError|SystemError|UnhandledSynapseError|StreamError|SynapseTerminated)\b"
        r"|A device is busy or an internal check failed|No available intermediate buffer",
        error=HPUDriverError,
        cause="HCCL failed inside: a device or a link failed, or another rank is gone.",
        next_command=f"{FIRST_RANK}; {_LINKS}",
        source=f"HabanaAI/hccl_demo#46; {_HCCL}",
    ),
)

PROCESS_GROUPS = (
    Row(
        id="rendezvous_closed",
        pattern=r"RendezvousClosedError",
        types=("torch.distributed.elastic.rendezvous.api.RendezvousClosedError",),
        error=NetworkConnectionError,
        cause="The job has ended for this rendezvous id; latecomers cannot join it.",
        next_command="start the whole job again, with a new --rdzv-id",
        source=_RENDEZVOUS,
    ),
    Row(
        id="rendezvous",
        pattern=r"Rendezvous(?:Timeout|Connection|State)?Error|connection to the C10d store has failed"
        r"|waiting for clients\. \d{1,9}/\d{1,9} clients joined",
        types=(
            "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError",
            "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError",
        ),
        error=NetworkConnectionError,
        cause="Not all ranks came together in time: one was not started, or the rendezvous host is gone.",
        next_command=_PEERS,
        retryable=True,
        source=f"{_RENDEZVOUS}; {_TORCH}",
    ),
    Row(
        id="store_connect",
        pattern=r"client socket has (?:timed out|failed to connect)",
        error=NetworkConnectionError,
        cause="Rank 0's store cannot be reached: wrong address, closed port, or rank 0 is not up yet.",
        next_command=_PEERS,
        retryable=True,
        source=_TORCH,
    ),
    Row(
        id="store_wait",
        pattern=r"wait timeout after \d{1,12}ms, keys",
        error=NetworkConnectionError,
        cause="Another rank did not get as far as this one in time.",
        next_command=f"py-spy dump on each rank shows which one waits elsewhere; {FIRST_RANK}",
        source=_TORCH,
    ),
    Row(
        id="address_in_use",
        pattern=r"EADDRINUSE|Address already in use|\[Errno 98\]",
        errnos=("EADDRINUSE",),
        error=NetworkConnectionError,
        cause="Another process, perhaps of an earlier run, has the port.",
        next_command="ss -ltnp; give another MASTER_PORT, or --rdzv-endpoint with port 0",
        retryable=True,
        source=_TORCH,
    ),
    Row(
        id="collective_timeout",
        pattern=r"Timed out waiting \d{1,12}ms for (?:recv|send) operation"
        r"|Watchdog caught collective operation timeout",
        error=NetworkConnectionError,
        cause="A rank did not take part in a collective: it hangs, is slow, or took another branch.",
        next_command=f"py-spy dump on each rank shows which one waits elsewhere; {FIRST_RANK}",
        source=_TORCH,
    ),
    Row(
        id="peer_lost",
        pattern=r"gloo/transport/.{0,200}(?:Connection (?:reset|closed) by peer|Broken pipe|Connection refused)",
        error=NetworkConnectionError,
        cause="Another rank died; this group of processes cannot go on.",
        next_command=FIRST_RANK,
        source=_TORCH,
    ),
)

CONNECTIONS = (
    Row(
        id="name_resolution",
        pattern=r"Name or service not known|Temporary failure in name resolution|getaddrinfo failed",
        types=("socket.gaierror",),
        error=NetworkConnectionError,
        cause="A host's name has no address here, or the name server does not answer.",
        next_command="getent hosts on the named host",
        retryable=True,
        source="glibc: getaddrinfo",
    ),
    Row(
        id="certificate",
        pattern=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        types=("ssl.SSLCertVerificationError",),
        error=NetworkError,
        cause="The certificate of the other side is not trusted here.",
        next_command="set SSL_CERT_FILE to the certificates of your organisation",
        source="Python: ssl",
    ),
    Row(
        id="service_unavailable",
        pattern=r"(?:HTTP/[\d.]{1,5}|HTTP Error|status(?: code)?)\W{1,3}(?:429|502|503|504)\b(?!\.\d)"
        r"|\b(?:429 (?:Client|Too Many)|50[234] (?:Server Error|Bad Gateway|Service Unavail|Gateway))",
        error=ServiceUnavailableError,
        cause="The service is overloaded, starting or behind a proxy that cannot reach it.",
        next_command="wait as long as its Retry-After header says",
        retryable=True,
        source="RFC 9110, 6585",
    ),
    Row(
        id="connection",
        pattern=r"Connection (?:reset by peer|refused|aborted|timed out)|Broken pipe|No route to host"
        r"|Network is unreachable",
        types=(
            "ConnectionError",
            "TimeoutError",
            "asyncio.exceptions.TimeoutError",  # those of Python 3.10
            "concurrent.futures._base.TimeoutError",
        ),
        errnos=("ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EPIPE"),
        error=NetworkConnectionError,
        cause="The other side is not there, closed the connection, or did not answer in time.",
        next_command="check address and port, and that the service runs there",
        retryable=True,
        source="Python: errno, os.strerror",
    ),
)
