#include "sensor.h"

/* Marsaglia's xorshift with shifts of 13, 17 and 5. */
static uint32_t draw(void)
{
    static uint32_t state = 1;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

bool sensor_acquire(odl_half sample[ODL_SAMPLE_ELEMS], learner_target target[ODL_TARGET_ELEMS])
{
    const uint32_t label = (draw() >> 8) % ODL_OUTPUT_ELEMS;
    for (uint32_t i = 0; i < ODL_SAMPLE_ELEMS; i++) {
        const int32_t noise = (int32_t)(draw() >> 24) - 128;
        const int32_t mark = i % ODL_OUTPUT_ELEMS == label ? 256 : 0;
        sample[i] = (odl_half)((float)(noise + mark) / 256.0f); /* exact: ten bits */
    }
#if ODL_TARGET_IS_LABEL
    *target = (int32_t)label;
#else
    for (uint32_t i = 0; i < ODL_TARGET_ELEMS; i++) {
        target[i] = sample[i % ODL_SAMPLE_ELEMS]; /* an autoencoder's */
    }
#endif
    return true;
}
