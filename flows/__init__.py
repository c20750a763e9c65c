"""The only code that imports Prefect: thin flows over library functions, and the command line."""

import os

# Before torch is loaded. By default idle OpenMP threads spin; on small models and a machine that does anything else they then hold up
# the working one at every operation (80 times slower was measured). Waiting passively costs nothing on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
