/* The kernels that this model calls. Made by odl 0.1.0; do not edit.
 *
 * Tensors are dense, images channels last. Every sum is taken in pairs of its reduction axis (odl_half.h); outputs may
 * be computed in any order without changing a bit.
 */
#ifndef ODL_KERNELS_H
#define ODL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "odl_half.h"
#include "odl_math.h"
#include "odl_window.h"

/* sum[first + i] = sum[first + i] + g[i]. g: n_elems; sum: at least first + n_elems. */
void odl_accumulate_gradient_f32(float *sum, const float *g, uint32_t first, uint32_t n_elems);
/* sum[i] = +0. sum: n_elems. */
void odl_clear_gradient_f32(float *sum, uint32_t n_elems);

/* y[p][o] = round(b[o] + sum over kernel rows, then (kw, channel) in pairs, of x[tap of p][i] * w[o][tap][i]).
 * x: in_h x in_w x in_c, w: out_c x kernel_h x kernel_w x in_c, b: out_c or NULL, y: out_h x out_w x out_c. */
void odl_conv2d(odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b, const struct odl_window *s);
/* dw[o][tap][i] = sum over output rows, then neighbouring pixels p in pairs, of dy[p][first + o] * x[tap of p][i].
 * dy: out_h x out_w x out_c, x: in_h x in_w x in_c, dw: count x kernel_h x kernel_w x in_c. */
void odl_conv2d_weight_gradient(float *dw, const odl_half *dy, const odl_half *x,
                                const struct odl_window *s, uint32_t first, uint32_t count);

/* n[0] = n[0] + 1, and 0 when that reaches the limit. */
void odl_count(int32_t *n, uint32_t limit);

/* p[k] = exp(x[k] - max) / sum and loss = log(sum) - (x[label] - max), in binary32; sum is that of exp(x[j] - max).
 * A label that is no class makes them NaN. x, p: n_classes; loss, label: 1. */
void odl_softmax_cross_entropy(float *loss, float *p, const odl_half *x, const int32_t *label, uint32_t n_classes);
/* dx[k] = round((p[k] - (k == label)) * scale), in binary32; where the loss scale changes, scale is multiplied by it.
 * p, dx: n_classes; label: 1; loss_scale: 1 or NULL. */
void odl_softmax_cross_entropy_gradient(odl_half *dx, const float *p, const int32_t *label, const float *loss_scale,
                                        uint32_t n_classes, float scale);

/* y[m][n] = round(b[n] + sum over k of x[m][k] * w[n][k]); b may be NULL, which means +0. n_inputs is odd.
 * x: n_rows x n_inputs, w: n_outputs x n_inputs, b: n_outputs, y: n_rows x n_outputs. */
void odl_dense_odd(odl_half *y, const odl_half *x, const odl_half *w, const odl_half *b, uint32_t n_rows,
               uint32_t n_inputs, uint32_t n_outputs);
/* dx[m][k] = round(sum over n of dy[m][n] * w[n][k]).
 * dy: n_rows x n_outputs, w: n_outputs x n_inputs, dx: n_rows x n_inputs. */
void odl_dense_input_gradient(odl_half *dx, const odl_half *dy, const odl_half *w, uint32_t n_rows,
                              uint32_t n_inputs, uint32_t n_outputs);
/* dw[n][k] = sum over m of dy[m][first + n] * x[m][k], for n in 0 .. count - 1.
 * dy: n_rows x n_outputs, x: n_rows x n_inputs, dw: count x n_inputs. */
void odl_dense_weight_gradient(float *dw, const odl_half *dy, const odl_half *x, uint32_t n_rows,
                               uint32_t n_inputs, uint32_t n_outputs, uint32_t first, uint32_t count);

/* progress: updates tried, skipped, sound ones in a row, and whether training has diverged. One more has been tried, and is
 * skipped where the squares (8) are not finite. */
void odl_finish_step(int32_t *progress, const float *squares);

/* y[p][c] = the greatest x[tap of p][c], the first of equals; taps outside the image do not take part.
 * x: in_h x in_w x in_c, y: out_h x out_w x in_c. */
void odl_max_pool(odl_half *y, const odl_half *x, const struct odl_window *s);
/* dx[first greatest tap of window p][c] = round(dx + dy[p][c]) by ascending p, starting from zeros.
 * x, dx: in_h x in_w x in_c, dy: out_h x out_w x in_c. */
void odl_max_pool_gradient(odl_half *dx, const odl_half *x, const odl_half *dy, const struct odl_window *s);

/* y[i] = x[i] where x[i] > 0, else +0, also for NaN. x, y: n_elems; y may be x. */
void odl_relu(odl_half *y, const odl_half *x, uint32_t n_elems);
/* dx[i] = dy[i] where y[i] > 0, else +0; y is the output of odl_relu. y, dy, dx: n_elems; dx may be y or dy. */
void odl_relu_gradient(odl_half *dx, const odl_half *y, const odl_half *dy, uint32_t n_elems);

/* s[n] = sum over rows m in pairs of x[m][n] * y[m][n]; y may be NULL, which means ones.
 * x, y: n_rows x n_cols, s: n_cols. */
void odl_row_sum(float *s, const odl_half *x, const odl_half *y, uint32_t n_rows, uint32_t n_cols);

/* d = g * unscale, clipped, + decay * w; velocity = momentum * velocity + d; w moves by lr * velocity. In binary32.
 * Nothing changes where the guard (8 sums of squares) is not finite, nor an element that would not be; lost (1)
 * grows by the elements that had a step to take and stayed. g: n_elems; w from row + first on, what lies beside it
 * from first on. */
void odl_momentum_update_stochastic_f16_f32(odl_half *w, odl_half *velocity, int32_t *lost, const float *g,
                                            const float *rates, const float *guard, const int32_t *progress,
                                            uint32_t row, uint32_t first, uint32_t n_elems, uint32_t index,
                                            uint32_t salt, float momentum, float decay, float clip);

/* s[p - first] = so_far[p - first] + the squares of part p of x in pairs, in binary32, for `count` parts from `first` on.
 * Part p of 8: the rows from n_rows * p / 8 up to n_rows * (p + 1) / 8, each of `row` elements; x begins with the first
 * part's. so_far: count, or NULL for zeros; s may be so_far. */
void odl_square_sums_f32(float *s, const float *x, const float *so_far, uint32_t n_rows, uint32_t row,
                         uint32_t first, uint32_t count);

/* The shape of the result, and how far apart in the operand neighbours along each of its axes are. */
struct odl_transpose {
    uint32_t size0, size1, size2, size3;
    uint32_t stride0, stride1, stride2, stride3;
};

/* y[i][j][k][l] = x[i * stride0 + j * stride1 + k * stride2 + l * stride3]. */
void odl_transpose(odl_half *y, const odl_half *x, const struct odl_transpose *s);

#endif
