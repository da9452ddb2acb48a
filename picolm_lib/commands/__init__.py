"""What the commands do: each reads its options, puts the parts of the package together, prints.

On import, before torch is loaded, its OpenMP threads are set to sleep while they wait for each
other. By default they spin, and beside other busy programs a spinning thread takes the core that
the awaited one needs: on two cores beside two busy programs, nano trained 0.10 steps per second
with spinning threads and 0.87 with sleeping ones. A user's own OMP_WAIT_POLICY takes precedence.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
