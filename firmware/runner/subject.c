#include "subject.h"

#include "odl_model.h"

#ifdef ODL_TRACE
#include "odl_trace.h"
#include "port.h"
#endif

#define WHOLE_WORDS(n_bytes) (((n_bytes) + 3u) & ~3u)

/* The arena between canaries, in a section of its own, so that start-up need not zero what main() poisons. */
#ifdef __ELF__
__attribute__((section(".bss.odl_arena")))
#endif
static struct {
    _Alignas(ODL_ARENA_ALIGN) volatile uint32_t before[ODL_N_CANARIES];
    _Alignas(ODL_ARENA_ALIGN) uint8_t bytes[ODL_ARENA_BYTES];
    volatile uint32_t after[ODL_N_CANARIES];
} arena;

static struct {
    odl_half sample[WHOLE_WORDS(ODL_SAMPLE_ELEMS * 2u) / 2u];
#if ODL_TARGET_IS_LABEL
    int32_t target;
#else
    odl_half target[WHOLE_WORDS(ODL_TARGET_ELEMS * 2u) / 2u];
#endif
} item;

static odl_half output[ODL_OUTPUT_ELEMS];

const struct odl_subject odl_subject = {
    .sample_bytes = sizeof item.sample,
    .target_bytes = sizeof item.target,
    .output_bytes = sizeof output,
    .arena_bytes = sizeof arena.bytes,
    .arena = arena.bytes,
    .before = arena.before,
    .after = arena.after,
    .item = &item,
    .output = output,
};

#ifdef ODL_TRACE
static uint32_t hashes[ODL_TRACED_COUNT];
static uint32_t counts[ODL_CALL_COUNT * ODL_COUNTERS];

const struct odl_traces odl_traces = {
    .traced = odl_traced,
    .n_traced = ODL_TRACED_COUNT,
    .n_calls = ODL_CALL_COUNT,
    .hashes = hashes,
    .counts = counts,
};
#endif

void odl_subject_init(void)
{
    odl_init(arena.bytes);
}

bool odl_subject_train(float *loss)
{
    return odl_train_step(arena.bytes, item.sample, item.target, loss) != ODL_BAD_LABEL;
}

void odl_subject_infer(void)
{
    odl_infer(arena.bytes, item.sample, output);
}
