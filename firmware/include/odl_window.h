/* The geometry of a window that slides over an image: convolutions and pools. Images are height x width x channels. */
#ifndef ODL_WINDOW_H
#define ODL_WINDOW_H

#include <stdint.h>

#include "odl_half.h"

struct odl_window {
    uint32_t in_h, in_w, in_c;
    uint32_t out_h, out_w, out_c;
    uint32_t kernel_h, kernel_w;
    uint32_t stride_h, stride_w;
    uint32_t pad_top, pad_left;
};

/* As many zeros as the widest pixel has channels: what a tap on the padding sees. */
extern const odl_half odl_zeros[];

/* The channels of pixel (row, col) of an image, or zeros where that lies on the padding. */
static inline const odl_half *odl_pixel(const odl_half *image, int32_t row, int32_t col, uint32_t n_rows,
                                        uint32_t n_cols, uint32_t n_channels)
{
    if (row < 0 || col < 0 || row >= (int32_t)n_rows || col >= (int32_t)n_cols) {
        return odl_zeros;
    }
    return image + ((uint32_t)row * n_cols + (uint32_t)col) * n_channels;
}

/* The channels of x that tap (i, j) sees at output pixel (oh, ow). */
static inline const odl_half *odl_tap(const odl_half *x, const struct odl_window *s, uint32_t oh, uint32_t ow,
                                      uint32_t i, uint32_t j)
{
    const int32_t row = (int32_t)(oh * s->stride_h + i) - (int32_t)s->pad_top;
    const int32_t col = (int32_t)(ow * s->stride_w + j) - (int32_t)s->pad_left;
    return odl_pixel(x, row, col, s->in_h, s->in_w, s->in_c);
}

/* The largest tap that sees input position `at`, which belongs to the smallest output position; the others follow
 * `stride` taps apart. May be negative: then no tap does. */
static inline int32_t odl_last_tap(uint32_t at, uint32_t pad, uint32_t kernel, uint32_t stride)
{
    const uint32_t phase = (at + pad) % stride;
    return phase < kernel ? (int32_t)(phase + (kernel - 1 - phase) / stride * stride) : -1;
}

#endif
