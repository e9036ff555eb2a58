"""DAEs at the save times: algebraic variables that fit the state and the control, and the adjoint of finding them.

Dense output gives algebraic variables to the tolerance only, and where the control jumps those of the interval before.
After the sweep Newton's method changes every saved state along the null space of M until the algebraic equations hold
with the control that is reported at that time, as at a jump (see `projection`). Before the reverse sweep its adjoint
turns the seeds of what was saved into those of what the sweep gave.
"""

from __future__ import annotations

from . import slots as s
from .costs import pack_rows, unpack_control_seeds
from .language import Bool, Int, Ints, call_kernel, doubles, fill, ints, reals, sparse_add, sweep
from .linear import use_record
from .projection import CROSSED, FITS, LIMIT, newton_step, pull_back, start_newton
from .saves import save_count, save_row


@sweep
def enter_save(a: Ints, k: Int, records: Int) -> None:
    """Times and controls of save time k into the record of stage 0."""
    t = reals(records + a[s.OFF_T])
    for lane in range(a[s.LANES]):
        t[lane] = doubles(save_row(a, lane))[min(k, save_count(a, lane) - 1)]
    pack_rows(a, a[s.U_SAVES_AT], a[s.OWN_U], a[s.NU], k, records + a[s.OFF_U])


@sweep
def evaluate_save(a: Ints, x: Int, records: Int, kernel: Int) -> None:
    """The right-hand side at a saved state into row 0 of k; `kernel` is the address with or without tape."""
    inputs, outputs = ints(a[s.IN_AT]), ints(a[s.OUT_AT])
    inputs[0], inputs[1], inputs[2] = records + a[s.OFF_T], x, records + a[s.OFF_U]
    outputs[0], outputs[1] = a[s.K_AT], records + a[s.OFF_TAPE]
    call_kernel(kernel, a[s.IN_AT], a[s.OUT_AT])


@sweep
def fit_saves(a: Ints) -> None:
    """Change the saved states of all lanes so that they fit; a lane ends where they cannot (status 6)."""
    lanes, i, records = a[s.LANES], ints(a[s.LANE_I_AT]), a[s.SCRATCH_AT]
    crossed, saved = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes), ints(a[s.LANE_I_AT] + 8 * s.I_SAVED * lanes)
    for k in range(a[s.NT]):
        due = 0
        for lane in range(lanes):
            crossed[lane] = CROSSED if k < saved[lane] else 0
            due += crossed[lane]
        if due == 0:
            break
        x = a[s.SAVES_AT] + k * a[s.SN]
        enter_save(a, k, records)
        start_newton(a, records)
        for _ in range(LIMIT):
            evaluate_save(a, x, records, a[s.MODEL + s.VALUE])
            if newton_step(a, x, records) == 0:
                break
        for lane in range(lanes):
            if crossed[lane] == CROSSED:
                i[s.I_STATUS * lanes + lane] = 6
                saved[lane] = k
            crossed[lane] = 0


@sweep
def has_algebraic_seed(a: Ints, k: Int) -> Bool:
    """Whether any lane has a seed along the null space of M at save time k."""
    lanes, w = a[s.LANES], reals(a[s.MU_AT])
    fill(a[s.MU_AT], 0.0, a[s.N])
    sparse_add(a[s.MU_AT], a[s.ONES_AT], a[s.M_LANES_AT], a[s.SEEDS_AT] + k * a[s.SN], a[s.R_AT], a[s.N_R], lanes)
    found = False
    for e in range(a[s.N]):
        found = found or w[e] != 0.0
    return found


@sweep
def fit_saves_adjoint(a: Ints) -> None:
    """Turn the seeds of the saved states that fit into those of the states before."""
    lanes, records = a[s.LANES], a[s.SCRATCH_AT]
    crossed = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes)
    use_record(a, records)
    for k in range(a[s.NT]):
        if not has_algebraic_seed(a, k):
            continue
        for lane in range(lanes):
            crossed[lane] = FITS if k < save_count(a, lane) else 0
        x = a[s.SAVES_AT] + k * a[s.SN]
        enter_save(a, k, records)
        evaluate_save(a, x, records, a[s.MODEL + s.VALUE_TAPE])
        pull_back(a, x, records, a[s.SEEDS_AT] + k * a[s.SN])
        if a[s.WANT_U]:
            unpack_control_seeds(a, k)
    for lane in range(lanes):
        crossed[lane] = 0
