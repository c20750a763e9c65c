"""Flows of Prefect, thin ones over library functions, and how the cells of a grid are run."""

import os

# Before torch is loaded. By default idle OpenMP threads spin; on small models and a machine that does anything else they then hold up
# the working one at every operation (80 times slower was measured). Waiting passively costs nothing on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
