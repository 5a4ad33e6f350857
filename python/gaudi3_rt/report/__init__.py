"""What a finished or running training looks like, from the history that it left: pictures, and one page with all."""

from gaudi3_rt.report._gather import DeviceSeries, Happening, RankSteps, RunData, gather
from gaudi3_rt.report._page import facts, write_report
from gaudi3_rt.report._summary import summary

__all__ = ["DeviceSeries", "Happening", "RankSteps", "RunData", "facts", "gather", "summary", "write_report"]
