"""Time integration: methods as data, sweeps over lanes of trajectories, exact discrete adjoints.

Modules that need Numba (`intrinsics`, `stages`, `forward`, `reverse`, `blocks`) are imported when the first simulation
runs, not with the package.
"""

from __future__ import annotations
