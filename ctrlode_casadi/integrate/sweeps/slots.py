"""Positions in the task table: one int64 array that carries every size, flag and address into the compiled sweeps.

One array instead of a hundred arguments keeps the call from Python at about a microsecond, and one compiled sweep
serves every model, method and batch. Names ending in `_AT` are addresses; all others are sizes, counts or flags.
Lane-local quantities are arrays [n][L], lanes innermost; `N` = nx*L, `M` = nu*L, `SN` and `SM` their padded size in
bytes.
"""

from __future__ import annotations

# Sizes of one block of lanes.
(LANES, NX, NU, N, M, SN, SM, N_ERR, ND, NW, ITEM) = range(11)
# One stage record: state, control, time, kernel tape; offsets and size in bytes.
(RECORD, OFF_U, OFF_T, OFF_TAPE) = range(11, 15)
# The method: all stages (dense output included), those of a step, those of a trial with its error estimate.
(STAGES, MAIN, TRIAL, FSAL, TWO_ERRORS, DEGREE, ORDER) = range(15, 22)
# The batch: save times, pieces, powers per piece (degree + 1), trajectories, groups of blocks.
(NT, NB, POWERS, BATCH, BLOCKS, GROUPS, NP) = range(22, 29)
# The sweep: header lanes (1 when all lanes share their steps), row capacity, rows with tapes, stored states.
(LH, ROWS, ROW_CAP, TAPE_ROWS, CHECKPOINTS) = range(29, 34)
(ADAPTIVE, MODE, WANT_U, MAX_STEPS, JUMPS, SHARED_PLAN, STEPS_PER) = range(34, 41)
# Row strides of arrays that may be shared by all trajectories: 0 (shared) or 1.
(OWN_TS, OWN_BREAKS, OWN_STOPS, OWN_COEF, OWN_D, OWN_W, OWN_COEF_BAR) = range(41, 48)
# Addresses of the caller's arrays.
(CANCEL_AT, COUNTER_AT, TS_AT, COUNT_AT, BREAKS_AT, STOPS_AT, ANCHORS_AT, COEF_AT) = range(48, 56)
(X0_AT, D_AT, W_AT, SCALE_AT) = range(56, 60)
(X_AT, XBAR_AT, LOSS_AT, STATUS_AT, REACHED_AT, STEPS_AT, REJECTED_AT, RHS_AT) = range(60, 68)
(P_BAR_AT, X0_BAR_AT, COEF_BAR_AT) = range(68, 71)
# The method's arrays: nodes, first stage with the same node, sparse rows forward and backward, dense-output weights.
(C_AT, ALIAS_AT, F_PTR_AT, F_COL_AT, F_VAL_AT, B_PTR_AT, B_COL_AT, B_VAL_AT, P_AT, CONTROL_AT, ATOL_AT) = range(71, 82)
# Rows of the sweep, one per step of the block: t, h, end, piece, saves done, flags, record of the first stage.
(ROW_T_AT, ROW_H_AT, ROW_E_AT, ROW_PIECE_AT, ROW_SAVED_AT, ROW_FLAG_AT, ROW_FIRST_AT) = range(82, 89)
# Work arrays of one thread.
(STATES_AT, TAPES_AT, SCRATCH_AT, K_AT, BARS_AT, DENSE_AT, HX_AT, X_NEW_AT) = range(89, 97)
(ERR_AT, K_BAR_AT, SAVES_AT, SEEDS_AT) = range(97, 101)
(CF_AT, CF_BAR_AT, SU_AT, U_BAR_AT, T_BAR_AT, LANE_F_AT, LANE_I_AT, STACK_AT) = range(101, 109)
(IN_AT, OUT_AT, BACK_IN_AT, BACK_OUT_AT) = range(109, 113)
# Work arrays of the cost kernels.
(C_IN_AT, C_OUT_AT, C_BACK_IN_AT, C_BACK_OUT_AT, C_T_AT, C_U_AT, C_D_AT, C_W_AT, C_ELL_AT, C_SEED_AT) = range(113, 123)
(C_DUMP_AT, C_X_BAR_AT, C_TAPE_AT) = range(123, 126)
# Three kernels (model, cost at every save time, cost at the last one), each with the seven entries that follow.
(MODEL, COST, TERMINAL) = (126, 133, 140)
(VALUE, VALUE_TAPE, ADJOINT, FINISH, UNI_AT, ACC_AT, N_ACC) = range(7)
#: Lanes whose times differ in the current row: 1 when all lanes take the same step.
ROW_LANES = 147
# Controls at the save times and their adjoint, for costs.
(U_SAVES_AT, OWN_U, U_SAVES_BAR_AT) = range(148, 151)
# Slopes: further entries of a cost kernel's result, their sums per lane (float64), the caller's array (B, SLOPES).
(SLOPES, LANE_SLOPES_AT, SLOPES_AT) = range(151, 154)
# Rows replayed by the current block, and the caller's counters per group: replayed rows, rows, most rows of a block.
(REPLAYED, WORK_AT) = range(154, 156)
# Implicit methods: states per diagonal block (0: explicit), blocks, whether M is not I; bytes of a row's records.
(BLOCK, N_BLOCKS, MASS, ROW_BYTES) = range(160, 164)
# The record of a step: k of all stages at its start, then Jacobian, LU factors, pivots, tape of the Jacobian kernel.
(OFF_STEP, OFF_J, OFF_LU, OFF_PIVOTS, OFF_J_TAPE, STEP_AT) = range(164, 170)
# Coupling of the stages outside F: sparse rows forward and backward. Weights of the time derivative and gamma.
(C_PTR_AT, C_COL_AT, C_VAL_AT, D_PTR_AT, D_COL_AT, D_VAL_AT, GAMMA_COL_AT, GAMMA_VAL_AT, DIAGONAL_AT) = range(170, 179)
# Triples of row numbers for `sparse_add`: W from J and from M, products with M and M^T, the coupling of the blocks to
# the first one and its transpose, the adjoint of J; then the states of every block, (N_BLOCKS, BLOCK).
(W_J_AT, W_M_AT, M_AT, MT_AT, COUPLE_AT, COUPLE_T_AT, OUTER_AT, BLOCKS_AT) = range(179, 187)
# Numbers of triples, of nonzeros of J; values of the nonzeros of M.
(N_W_J, N_M, N_MM, N_COUPLE, N_OUTER, N_J, M_VAL_AT) = range(187, 194)
# Work arrays: ones per state, -h and 1 / gamma per lane, nonzeros of M, M v, T, slope of the control, least pivots ...
(ONES_AT, MINUS_H_AT, INVERSE_AT, M_LANES_AT, MV_AT, TIME_AT, DU_AT, LEAST_AT) = range(194, 202)
# ... and for the adjoint: solutions of the transposed systems, M^T times them, adjoints of J, T and the slope.
(MU_AT, MTMU_AT, J_BAR_AT, TIME_BAR_AT, DU_BAR_AT) = range(202, 207)
# Pointer arrays of the Jacobian kernel, and the kernel itself.
(J_IN_AT, J_OUT_AT, J_BACK_IN_AT, J_BACK_OUT_AT) = range(207, 211)
JACOBIAN = 211
# DAEs: whether M is singular, and triples for M + Q J R with the projections Q and R on the null spaces of M^T and M,
# and for products with Q and R; number of constants: nonzeros of M, factors of these triples, and -1 at the end.
(PROJECT, P_J_AT, Q_AT, R_AT, N_P_J, N_Q, N_R, N_CONSTANTS) = range(218, 226)
# Whether the stages tell about stiffness (0: no), and what to do then: WATCH_LIMIT or STOP_WHEN_STIFF.
STIFFNESS = 226
SIZE = 227

# Rows of the lane arrays: float64 quantities ...
(F_T, F_H, F_ERR, F_TAU, F_END, F_TRY, F_NORM, F_LOSS, F_ROWS) = range(9)
# ... and int64 ones.
(I_INDEX, I_LIVE, I_STATUS, I_SAVED, I_PIECE, I_STAGE_PIECE, I_FRESH, I_STEPS, I_REJECTED, I_ACTIVE) = range(10)
(I_OK, I_AGAIN, I_TRUNCATED, I_RHS, I_BAD, I_BASE, I_BROKEN, I_CROSSED, I_STIFF, I_CALM, I_LIMIT) = range(10, 21)
I_ROWS = 21
# Entries of the controller array (float64): rtol, atol is its own array; first step, safety, factor limits, PI gain,
# limit of stability of the stiffness test.
(RTOL, DT0, DT, SAFETY, SHRINK, GROW, BETA, STABILITY) = range(8)

# What a call does.
(SIMULATE, VJP, LOSS, GRADIENT) = range(4)
# What a block returns.
(DONE, NEED_ROWS, STOPPED) = range(3)
# The stiffness test: only before the step limit, to give a reason; or always, and a lane found stiff stops.
(WATCH_LIMIT, STOP_WHEN_STIFF) = (1, 2)
# Steps at the limit of stability that make a lane stiff, others in a row that set their count back (Hairer's numbers),
# trials before the step limit that are watched.
(STIFF_STEPS, CALM_STEPS, WATCHED_STEPS) = (15, 6, 200)
# Trials that a lane's limit grows by with every knot of the control that it passes.
STEPS_PER_KNOT = 10
# Flags of a row.
(HAS_TAPE, HAS_DENSE) = (1, 2)
