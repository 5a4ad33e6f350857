"""Records of tests of the audit log."""

from gaudi3_rt.audit import AuditLog


def write(path, count, **fields):
    """So many records."""
    with AuditLog(path, actor="alice", clock=lambda: 1.8e9) as log:
        return [log.append("step.done", number=i, **fields) for i in range(count)]
