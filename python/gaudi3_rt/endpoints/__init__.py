"""The HTTP server of a run: metrics for Prometheus, liveness, readiness and health. See docs/health.md.

``import gaudi3_rt.endpoints`` starts nothing; prometheus-client is imported where metrics are served.
"""

from gaudi3_rt.endpoints._routes import HealthSource
from gaudi3_rt.endpoints._serve import Endpoints, serve
from gaudi3_rt.endpoints._server import Limits

__all__ = ["Endpoints", "HealthSource", "Limits", "serve"]
