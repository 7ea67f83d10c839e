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

#endif
