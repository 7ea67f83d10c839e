/* A block of accumulators: the register tile of every product of matrices.
 *
 * Two rows times four columns: enough reuse that the conversions of the operands are shared by eight sums, few enough
 * accumulators for the single register file of an RV32 core with Zfinx. Which sums share a block never changes their
 * bits: each accumulator has its own order, given by the sequence of odl_block_dot2 calls.
 */
#ifndef ODL_BLOCK_H
#define ODL_BLOCK_H

#include <stdint.h>

#include "odl_half.h"

enum { ODL_BLOCK_ROWS = 2, ODL_BLOCK_COLS = 4 };

typedef struct {
    odl_acc at[ODL_BLOCK_ROWS][ODL_BLOCK_COLS];
} odl_block;

/* For edges: row or column `index` of a block that starts at `first`, held inside `count`. A repeated one is computed
 * and thrown away. */
static inline uint32_t odl_clamp(uint32_t first, uint32_t index, uint32_t count)
{
    uint32_t at = first + index;
    return at < count ? at : count - 1;
}

static inline void odl_block_zero(odl_block *block)
{
    for (int r = 0; r < ODL_BLOCK_ROWS; r++) {
        for (int c = 0; c < ODL_BLOCK_COLS; c++) {
            block->at[r][c] = odl_acc_zero();
        }
    }
}

/* One pair of the reduction axis for all eight sums. */
static inline void odl_block_dot2(odl_block *block, const odl_half2 rows[ODL_BLOCK_ROWS],
                                  const odl_half2 cols[ODL_BLOCK_COLS])
{
    for (int r = 0; r < ODL_BLOCK_ROWS; r++) {
        for (int c = 0; c < ODL_BLOCK_COLS; c++) {
            block->at[r][c] = odl_acc_dot2(block->at[r][c], rows[r], cols[c]);
        }
    }
}

/* A pair of reduction elements `stride` apart; `is_pair` is 0 for the last one of an odd count, which meets a zero. */
static inline odl_half2 odl_pair(const odl_half *p, uint32_t stride, int is_pair)
{
    return odl_pack2(p[0], is_pair ? p[stride] : (odl_half)0);
}

/* n elements of the reduction axis, `row_stride` and `col_stride` elements apart, for all eight sums. */
static inline void odl_block_dot(odl_block *block, const odl_half *const rows[ODL_BLOCK_ROWS], uint32_t row_stride,
                                 const odl_half *const cols[ODL_BLOCK_COLS], uint32_t col_stride, uint32_t n)
{
    for (uint32_t k = 0; k < n; k += 2) {
        const int is_pair = k + 1 < n;
        odl_half2 row[ODL_BLOCK_ROWS];
        odl_half2 col[ODL_BLOCK_COLS];
        for (int r = 0; r < ODL_BLOCK_ROWS; r++) {
            row[r] = odl_pair(rows[r] + k * row_stride, row_stride, is_pair);
        }
        for (int c = 0; c < ODL_BLOCK_COLS; c++) {
            col[c] = odl_pair(cols[c] + k * col_stride, col_stride, is_pair);
        }
        odl_block_dot2(block, row, col);
    }
}

#endif
