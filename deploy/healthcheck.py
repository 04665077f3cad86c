"""Exit status 0 when the stage in this container takes work: what the image's HEALTHCHECK runs.

Usage: healthcheck.py PORT. Reads the stage's own metrics page, which is there before the model is loaded.
"""

import sys
from http.client import HTTPConnection

_READY = b"\nmillrace_instance_ready 1.0\n"

if __name__ == "__main__":
    connection = HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=2)
    connection.request("GET", "/metrics")
    sys.exit(0 if _READY in connection.getresponse().read() else 1)
