"""Who did what: records in a file that can be extended, and in which any later change shows."""

from gaudi3_rt.audit._log import AuditLog
from gaudi3_rt.audit._verify import VerificationResult, verify

__all__ = ["AuditLog", "VerificationResult", "verify"]
