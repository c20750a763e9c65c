"""Prefect flows, kept thin over library functions, and the runners that execute the cells of a grid."""

import os

# Must be set before torch is loaded. By default idle OpenMP threads spin; with small models on a busy machine
# they then slow the working thread down at every operation (a factor of 80 was measured). Passive waiting
# costs nothing on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
