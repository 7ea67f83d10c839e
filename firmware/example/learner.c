#include "learner.h"

/* All the RAM that the model needs, besides stack. */
static _Alignas(ODL_ARENA_ALIGN) uint8_t arena[ODL_ARENA_BYTES];

static uint32_t n_steps_done;

bool learner_start(void)
{
    odl_init(arena);
    n_steps_done = 0;
    return odl_self_test() == 0;
}

static enum odl_status train(const odl_half *sample, const learner_target *target, float *loss)
{
#if ODL_TARGET_IS_LABEL
    return odl_train_step(arena, sample, *target, loss);
#else
    return odl_train_step(arena, sample, target, loss);
#endif
}

enum odl_status learner_run(uint32_t n_steps, learner_acquire acquire, learner_report report)
{
    /* Not on the stack, which is small. */
    static odl_half sample[ODL_SAMPLE_ELEMS];
    static learner_target target[ODL_TARGET_ELEMS];
    enum odl_status status = ODL_OK;
    for (uint32_t i = 0; i < n_steps && status == ODL_OK && acquire(sample, target); i++) {
        float loss;
        status = train(sample, target, &loss);
        if (status != ODL_BAD_LABEL) { /* then nothing was trained, and there is no loss */
            report(n_steps_done, loss);
            n_steps_done++;
        }
    }
    return status;
}

void learner_infer(const odl_half sample[ODL_SAMPLE_ELEMS], odl_half output[ODL_OUTPUT_ELEMS])
{
    odl_infer(arena, sample, output);
}
