/* small: the program, one kernel call after another. Made by odl 0.1.0; do not edit. */
#include "odl_model.h"

#include <stddef.h>

#include "odl_kernels.h"
#include "odl_progress.h"
#include "odl_rounding.h"
#include "odl_weights.h"

/* A tensor in the arena, by its offset in bytes. */
#define HALF(offset) ((odl_half *)(void *)((unsigned char *)arena + (offset)))
#define FLOAT(offset) ((float *)(void *)((unsigned char *)arena + (offset)))
#define INT(offset) ((int32_t *)(void *)((unsigned char *)arena + (offset)))

const odl_half odl_zeros[5] = {0};

static const struct odl_window conv_window = {
    .in_h = 6, .in_w = 6, .in_c = 2, .out_h = 6, .out_w = 6, .out_c = 5,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1, .pad_top = 1, .pad_left = 1,
};
static const struct odl_window pool_window = {
    .in_h = 6, .in_w = 6, .in_c = 5, .out_h = 3, .out_w = 3, .out_c = 5,
    .kernel_h = 2, .kernel_w = 2, .stride_h = 2, .stride_w = 2, .pad_top = 0, .pad_left = 0,
};
static const struct odl_transpose flat_transpose_2 = {
    .size0 = 1, .size1 = 5, .size2 = 3, .size3 = 3, .stride0 = 45, .stride1 = 1,
    .stride2 = 15, .stride3 = 5,
};
static const struct odl_transpose flat_transpose_1 = {
    .size0 = 1, .size1 = 3, .size2 = 3, .size3 = 5, .stride0 = 45, .stride1 = 3,
    .stride2 = 1, .stride3 = 9,
};

static void train_step(void *arena, const odl_half *sample, const int32_t *label)
{
    FIRST(0);
    /* batch, update */
    int32_t *const samples_seen = INT(1424); /* counter i32[1] */
    odl_count(samples_seen, 2);
    AFTER(arena, 0);

    /* conv, forward */
    odl_half *const n = HALF(1960); /* f16[1x6x6x5] */
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_conv2d(n, sample, w, beta, &conv_window);
    AFTER(arena, 1);

    /* relu, forward */
    odl_half *const r = HALF(1960); /* f16[1x6x6x5] */
    odl_relu(r, n, 180);
    AFTER(arena, 2);

    /* pool, forward */
    odl_half *const p = HALF(2320); /* f16[1x3x3x5] */
    odl_max_pool(p, r, &pool_window);
    AFTER(arena, 3);

    /* flat, forward */
    odl_half *const flat_transpose = HALF(2680); /* f16[1x5x3x3] */
    odl_transpose(flat_transpose, p, &flat_transpose_2);
    AFTER(arena, 4);

    /* fc, forward */
    odl_half *const y = HALF(2336); /* f16[1x3] */
    odl_half *const f = HALF(2680); /* f16[1x45] */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_dense_odd(y, f, v, c0, 1, 45, 3);
    AFTER(arena, 5);

    /* loss, forward */
    float *const loss_2 = FLOAT(2872); /* f32[1] */
    float *const probabilities = FLOAT(2320); /* f32[1x3] */
    odl_softmax_cross_entropy(loss_2, probabilities, y, label, 3);
    AFTER(arena, 6);
    odl_half *const y_grad = HALF(2880); /* f16[1x3] */
    odl_softmax_cross_entropy_gradient(y_grad, probabilities, label, NULL, 3, 1.0f);
    AFTER(arena, 7);

    /* fc, weight gradient */
    float *const c0_grad = FLOAT(2320); /* f32[3] */
    odl_row_sum(c0_grad, y_grad, NULL, 1, 3);
    AFTER(arena, 8);
    float *const c0_sum = FLOAT(1408); /* gradient f32[3] */
    odl_accumulate_gradient_f32(c0_sum, c0_grad, 0, 3);
    AFTER(arena, 9);

    /* fc, input gradient */
    odl_half *const f_grad = HALF(2320); /* f16[1x45] */
    odl_dense_input_gradient(f_grad, y_grad, v, 1, 45, 3);
    AFTER(arena, 10);

    /* flat, input gradient */
    odl_half *const p_grad = HALF(2776); /* f16[1x3x3x5] */
    odl_half *const flat_transpose_grad = HALF(2320); /* f16[1x5x3x3] */
    odl_transpose(p_grad, flat_transpose_grad, &flat_transpose_1);
    AFTER(arena, 11);

    /* pool, input gradient */
    odl_half *const r_grad = HALF(2320); /* f16[1x6x6x5] */
    odl_max_pool_gradient(r_grad, r, p_grad, &pool_window);
    AFTER(arena, 12);

    /* relu, input gradient */
    odl_half *const n_grad = HALF(2320); /* f16[1x6x6x5] */
    odl_relu_gradient(n_grad, r, r_grad, 180);
    AFTER(arena, 13);

    /* conv, weight gradient */
    float *const beta_grad = FLOAT(1960); /* f32[5] */
    odl_row_sum(beta_grad, n_grad, NULL, 36, 5);
    AFTER(arena, 14);
    float *const beta_sum = FLOAT(480); /* gradient f32[5] */
    odl_accumulate_gradient_f32(beta_sum, beta_grad, 0, 5);
    AFTER(arena, 15);
    float *const w_grad = FLOAT(1960); /* f32[5x3x3x2] */
    odl_conv2d_weight_gradient(w_grad, n_grad, sample, &conv_window, 0, 5);
    AFTER(arena, 16);
    float *const w_sum = FLOAT(504); /* gradient f32[5x3x3x2] */
    odl_accumulate_gradient_f32(w_sum, w_grad, 0, 90);
    AFTER(arena, 17);

    /* fc, weight gradient */
    float *const v_grad = FLOAT(1960); /* f32[3x45] */
    odl_dense_weight_gradient(v_grad, y_grad, f, 1, 45, 3, 0, 3);
    AFTER(arena, 18);
    float *const v_sum = FLOAT(864); /* gradient f32[3x45] */
    odl_accumulate_gradient_f32(v_sum, v_grad, 0, 135);
    AFTER(arena, 19);
}

static void apply_batch(void *arena)
{
    FIRST(20);
    /* conv, update */
    float *const beta_sum_squares = FLOAT(1960); /* f32[8] */
    float *const beta_sum = FLOAT(480); /* gradient f32[5] */
    odl_square_sums_f32(beta_sum_squares, beta_sum, NULL, 5, 1, 0, 8);
    AFTER(arena, 20);
    float *const w_sum_squares = FLOAT(1960); /* f32[8] */
    float *const w_sum = FLOAT(504); /* gradient f32[5x3x3x2] */
    odl_square_sums_f32(w_sum_squares, w_sum, beta_sum_squares, 5, 18, 0, 8);
    AFTER(arena, 21);

    /* fc, update */
    float *const v_sum_squares = FLOAT(1960); /* f32[8] */
    float *const v_sum = FLOAT(864); /* gradient f32[3x45] */
    odl_square_sums_f32(v_sum_squares, v_sum, w_sum_squares, 3, 45, 0, 8);
    AFTER(arena, 22);
    float *const c0_sum_squares = FLOAT(1960); /* f32[8] */
    float *const c0_sum = FLOAT(1408); /* gradient f32[3] */
    odl_square_sums_f32(c0_sum_squares, c0_sum, v_sum_squares, 3, 1, 0, 8);
    AFTER(arena, 23);

    /* conv, update */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_half *const beta_velocity = HALF(1448); /* state f16[5] */
    int32_t *const beta_lost = INT(1464); /* counter i32[1] */
    int32_t *const progress = INT(1432); /* counter i32[4] */
    odl_momentum_update_stochastic_f16_f32(beta, beta_velocity, beta_lost, beta_sum, odl_const_rates.values, c0_sum_squares, progress, 0, 0, 5, 0, 0, 0.9f, 0.0f, 0.0f);
    AFTER(arena, 24);
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const w_velocity = HALF(1472); /* state f16[5x3x3x2] */
    int32_t *const w_lost = INT(1656); /* counter i32[1] */
    odl_momentum_update_stochastic_f16_f32(w, w_velocity, w_lost, w_sum, odl_const_rates.values, c0_sum_squares, progress, 0, 0, 90, 0, 315240206, 0.9f, 0.0f, 0.0f);
    AFTER(arena, 25);

    /* fc, update */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const v_velocity = HALF(1664); /* state f16[3x45] */
    int32_t *const v_lost = INT(1936); /* counter i32[1] */
    odl_momentum_update_stochastic_f16_f32(v, v_velocity, v_lost, v_sum, odl_const_rates.values, c0_sum_squares, progress, 0, 0, 135, 0, 1020716019, 0.9f, 0.0f, 0.0f);
    AFTER(arena, 26);
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_half *const c0_velocity = HALF(1944); /* state f16[3] */
    int32_t *const c0_lost = INT(1952); /* counter i32[1] */
    odl_momentum_update_stochastic_f16_f32(c0, c0_velocity, c0_lost, c0_sum, odl_const_rates.values, c0_sum_squares, progress, 0, 0, 3, 0, 454327756, 0.9f, 0.0f, 0.0f);
    AFTER(arena, 27);

    /* step, update */
    odl_finish_step(progress, c0_sum_squares);
    AFTER(arena, 28);

    /* conv, update */
    odl_clear_gradient_f32(beta_sum, 5);
    AFTER(arena, 29);
    odl_clear_gradient_f32(w_sum, 90);
    AFTER(arena, 30);

    /* fc, update */
    odl_clear_gradient_f32(v_sum, 135);
    AFTER(arena, 31);
    odl_clear_gradient_f32(c0_sum, 3);
    AFTER(arena, 32);
}

static void infer(void *arena, const odl_half *sample)
{
    FIRST(33);
    /* conv, forward */
    odl_half *const n = HALF(1960); /* f16[1x6x6x5] */
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_conv2d(n, sample, w, beta, &conv_window);
    AFTER(arena, 33);

    /* relu, forward */
    odl_half *const r = HALF(1960); /* f16[1x6x6x5] */
    odl_relu(r, n, 180);
    AFTER(arena, 34);

    /* pool, forward */
    odl_half *const p = HALF(2320); /* f16[1x3x3x5] */
    odl_max_pool(p, r, &pool_window);
    AFTER(arena, 35);

    /* flat, forward */
    odl_half *const flat_transpose = HALF(1960); /* f16[1x5x3x3] */
    odl_transpose(flat_transpose, p, &flat_transpose_2);
    AFTER(arena, 36);

    /* fc, forward */
    odl_half *const y = HALF(2056); /* f16[1x3] */
    odl_half *const f = HALF(1960); /* f16[1x45] */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_dense_odd(y, f, v, c0, 1, 45, 3);
    AFTER(arena, 37);
}

void odl_init(void *arena)
{
    for (uint32_t i = 0; i < ODL_INITIAL_COUNT; i++) {
        const struct odl_initial *from = &odl_initial[i];
        unsigned char *to = (unsigned char *)arena + from->offset;
        for (uint32_t at = 0; at < from->n_bytes; at++) {
            to[at] = from->bytes != NULL ? from->bytes[at] : 0;
        }
    }
}

enum odl_status odl_train_step(void *arena, const odl_half *sample, int32_t label, float *loss)
{
    if (label < 0 || label >= 3) {
        return ODL_BAD_LABEL;
    }
    const uint32_t rounding = odl_round_to_nearest();
    train_step(arena, sample, &label);
    *loss = *FLOAT(2872);
    if (*INT(1424) == 0) { /* samples_seen: the batch is full */
        apply_batch(arena);
    }
    odl_round_as_before(rounding);
    return ODL_OK;
}

void odl_read_report(void *arena, struct odl_report *report)
{
    const int32_t *const progress = INT(1432);
    static const uint32_t lost[4] = {
        1464, 1656, 1936, 1952,
    };
    report->tried = (uint32_t)progress[0];
    report->skipped = (uint32_t)progress[1];
    report->lost = 0;
    for (uint32_t i = 0; i < sizeof lost / sizeof lost[0]; i++) {
        report->lost += *(const uint32_t *)(const void *)((const unsigned char *)arena + lost[i]);
    }
    report->loss_scale = 1.0f;
}

void odl_infer(void *arena, const odl_half *sample, odl_half *output)
{
    const uint32_t rounding = odl_round_to_nearest();
    infer(arena, sample);
    odl_round_as_before(rounding);
    for (uint32_t i = 0; i < ODL_OUTPUT_ELEMS; i++) {
        output[i] = HALF(2056)[i];
    }
}

const uint32_t odl_model_id = ODL_MODEL_ID;
const uint32_t odl_state_count = 18;
const struct odl_state_tensor odl_state[] = {
    { "beta", 10, 0 },
    { "w", 180, 16 },
    { "v", 270, 200 },
    { "c0", 6, 472 },
    { "beta.sum", 20, 480 },
    { "w.sum", 360, 504 },
    { "v.sum", 540, 864 },
    { "c0.sum", 12, 1408 },
    { "samples_seen", 4, 1424 },
    { "progress", 16, 1432 },
    { "beta.velocity", 10, 1448 },
    { "beta.lost", 4, 1464 },
    { "w.velocity", 180, 1472 },
    { "w.lost", 4, 1656 },
    { "v.velocity", 270, 1664 },
    { "v.lost", 4, 1936 },
    { "c0.velocity", 6, 1944 },
    { "c0.lost", 4, 1952 },
};

void *odl_state_data(void *arena, uint32_t index)
{
    return (unsigned char *)arena + odl_state[index].offset;
}
