"""The stiffness test of the adaptive sweep: Hairer & Wanner II, IV.2.

The last two stages of a trial both lie at its end, at different states X and X'. So |f(X) - f(X')| / |X - X'| estimates
the largest eigenvalue of the Jacobian, without an evaluation of its own: rounding and the error of the step put the
fastest mode into X - X'. Where h times it lies at the limit of the method's stability region step by step, stability
governs the steps and not the error.
"""

from __future__ import annotations

from . import slots as s
from .language import Float, Int, Ints, doubles, ints, reals, sweep


@sweep
def ratio_of_stages(a: Ints, lane: Int, h: Float, records: Int, x_new: Int) -> Float:
    """(h |k - k'| / |X - X'|)^2 for the last two stages of a lane's trial; the first N_ERR states count."""
    lanes, last = a[s.LANES], a[s.TRIAL] - 1
    k, k_before = reals(a[s.K_AT] + last * a[s.SN]), reals(a[s.K_AT] + (last - 1) * a[s.SN])
    x, x_before = reals(x_new), reals(records + (last - 1) * a[s.RECORD])
    above, below = 0.0, 0.0
    for c in range(a[s.N_ERR]):
        e = c * lanes + lane
        slope, state = h * (k[e] - k_before[e]), 1.0 * (x[e] - x_before[e])
        above += slope * slope
        below += state * state
    return above / below if below > 0.0 else 0.0


@sweep
def notice_stiffness(a: Ints, row: Int, records: Int, x_new: Int) -> None:
    """Count every lane's accepted steps at the limit of stability; six others in a row set the count back.

    A sweep that does not stop for stiffness only looks at the last trials before its limit.
    """
    lanes, i, h = a[s.LANES], ints(a[s.LANE_I_AT]), doubles(a[s.ROW_H_AT])
    limit = doubles(a[s.CONTROL_AT])[s.STABILITY]
    always = a[s.STIFFNESS] == s.STOP_WHEN_STIFF
    for lane in range(lanes):
        first = 0 if always else i[s.I_LIMIT * lanes + lane] - s.WATCHED_STEPS
        trials = i[s.I_STEPS * lanes + lane] + i[s.I_REJECTED * lanes + lane]
        if i[s.I_OK * lanes + lane] == 0 or trials < first:
            continue
        if ratio_of_stages(a, lane, h[row * lanes + lane], records, x_new) > limit * limit:
            i[s.I_STIFF * lanes + lane] += 1
            i[s.I_CALM * lanes + lane] = 0
            continue
        i[s.I_CALM * lanes + lane] += 1
        if i[s.I_CALM * lanes + lane] == s.CALM_STEPS:
            i[s.I_STIFF * lanes + lane] = 0
