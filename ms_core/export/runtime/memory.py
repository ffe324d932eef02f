"""Peak memory of this process, on any system."""

import re
import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (10^6 bytes); nan where the system does not tell.

    VmHWM, which unlike getrusage knows nothing of the parent; getrusage where there is no /proc.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024 / 1e6
    try:
        import resource  # Unix alone
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
