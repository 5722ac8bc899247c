"""``agentic-trio doctor``: looks at all that a gateway needs, and says what to do about what is wrong."""

from agentic_trio.cli.doctor.examination import examine
from agentic_trio.cli.doctor.findings import Finding

__all__ = ["Finding", "examine"]
