/*
 * What outlives a training step, the same for every model: code that keeps or moves it need not know which one it is.
 */
#ifndef ODL_STATE_H
#define ODL_STATE_H

#include <stdint.h>

/* A tensor that training changes: its name in ONNX, and its place in the arena. Weights, and what
 * updates keep: momentum, sums of a batch under way, loss scale, counters. */
struct odl_state_tensor {
    const char *name;
    uint32_t n_bytes;
    uint32_t offset;
};

extern const uint32_t odl_model_id; /* of this model, recipe and target together: state means nothing to others */
extern const uint32_t odl_state_count;
extern const struct odl_state_tensor odl_state[];

/* Number `index` of odl_state: read it, save it, or write other values over it. */
void *odl_state_data(void *arena, uint32_t index);

#endif
