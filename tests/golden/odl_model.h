/* small: training and inference in binary16. Made by odl 0.1.0; do not edit.
 *
 * The caller owns the arena: 2,888 bytes, of which 1,960 hold weights and optimizer state
 * between calls. Nothing else in RAM changes: no heap, no globals. One arena is one model; two may live side by side.
 * Images are channels last: height x width x channels.
 */
#ifndef ODL_MODEL_H
#define ODL_MODEL_H

#include <stdint.h>

#include "odl_half.h"
#include "odl_state.h"

#define ODL_MODEL_ID 0x9a36fe3cu
#define ODL_ARENA_BYTES 2888u
#define ODL_ARENA_ALIGN 16u
#define ODL_SAMPLE_ELEMS 72u /* f16[1x6x6x2] */
#define ODL_OUTPUT_ELEMS 3u /* f16[1x3] */
#define ODL_TARGET_IS_LABEL 1
#define ODL_TARGET_ELEMS 1u /* i32[1] */

enum odl_status {
    ODL_OK = 0,
    ODL_BAD_LABEL = 1, /* the label is not a class; nothing was changed */
    ODL_DIVERGED = 2,  /* gradients are not finite at the least loss scale either; nothing that trains was changed */
};

/* How training has gone so far. */
struct odl_report {
    uint32_t tried;   /* updates */
    uint32_t skipped; /* those of them in which a gradient was not finite */
    uint32_t lost;    /* updates of single weights that rounding undid, all together, modulo 2^32 */
    float loss_scale;
};

/* Give every weight its first value and clear the optimizer's state. */
void odl_init(void *arena);

/* Train on one sample; the loss is that before the update. Weights change at every 2th call. */
enum odl_status odl_train_step(void *arena, const odl_half *sample, int32_t label, float *loss);

void odl_read_report(void *arena, struct odl_report *report);

void odl_infer(void *arena, const odl_half *sample, odl_half *output);

#endif
