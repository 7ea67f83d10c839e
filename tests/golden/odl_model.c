/* small: the program, one kernel call after another. Made by odl 0.1.0; do not edit. */
#include "odl_model.h"

#include <stddef.h>

#include "odl_kernels.h"
#include "odl_weights.h"

#ifdef ODL_TRACE
#include "odl_trace.h"
#define AFTER(call) odl_after_call(arena, call)
#else
#define AFTER(call) ((void)0)
#endif

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
    /* batch, update */
    int32_t *const samples_seen = INT(1424); /* counter i32[1] */
    odl_count(samples_seen, 2);
    AFTER(0);

    /* conv, forward */
    odl_half *const n = HALF(1912); /* f16[1x6x6x5] */
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_conv2d(n, sample, w, beta, &conv_window);
    AFTER(1);

    /* relu, forward */
    odl_half *const r = HALF(1912); /* f16[1x6x6x5] */
    odl_relu(r, n, 180);
    AFTER(2);

    /* pool, forward */
    odl_half *const p = HALF(2272); /* f16[1x3x3x5] */
    odl_max_pool(p, r, &pool_window);
    AFTER(3);

    /* flat, forward */
    odl_half *const flat_transpose = HALF(2632); /* f16[1x5x3x3] */
    odl_transpose(flat_transpose, p, &flat_transpose_2);
    AFTER(4);

    /* fc, forward */
    odl_half *const y = HALF(2288); /* f16[1x3] */
    odl_half *const f = HALF(2632); /* f16[1x45] */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_dense_odd(y, f, v, c0, 1, 45, 3);
    AFTER(5);

    /* loss, forward */
    float *const loss_2 = FLOAT(2824); /* f32[1] */
    float *const probabilities = FLOAT(2272); /* f32[1x3] */
    odl_softmax_cross_entropy(loss_2, probabilities, y, label, 3);
    AFTER(6);
    odl_half *const y_grad = HALF(2832); /* f16[1x3] */
    odl_softmax_cross_entropy_gradient(y_grad, probabilities, label, 3, 1.0f);
    AFTER(7);

    /* fc, weight gradient */
    float *const c0_grad = FLOAT(2272); /* f32[3] */
    odl_row_sum(c0_grad, y_grad, NULL, 1, 3);
    AFTER(8);
    float *const c0_sum = FLOAT(1408); /* gradient f32[3] */
    odl_accumulate_gradient_f32(c0_sum, c0_grad, 0, 3);
    AFTER(9);

    /* fc, input gradient */
    odl_half *const f_grad = HALF(2272); /* f16[1x45] */
    odl_dense_input_gradient(f_grad, y_grad, v, 1, 45, 3);
    AFTER(10);

    /* flat, input gradient */
    odl_half *const p_grad = HALF(2728); /* f16[1x3x3x5] */
    odl_half *const flat_transpose_grad = HALF(2272); /* f16[1x5x3x3] */
    odl_transpose(p_grad, flat_transpose_grad, &flat_transpose_1);
    AFTER(11);

    /* pool, input gradient */
    odl_half *const r_grad = HALF(2272); /* f16[1x6x6x5] */
    odl_max_pool_gradient(r_grad, r, p_grad, &pool_window);
    AFTER(12);

    /* relu, input gradient */
    odl_half *const n_grad = HALF(2272); /* f16[1x6x6x5] */
    odl_relu_gradient(n_grad, r, r_grad, 180);
    AFTER(13);

    /* conv, weight gradient */
    float *const beta_grad = FLOAT(1912); /* f32[5] */
    odl_row_sum(beta_grad, n_grad, NULL, 36, 5);
    AFTER(14);
    float *const beta_sum = FLOAT(480); /* gradient f32[5] */
    odl_accumulate_gradient_f32(beta_sum, beta_grad, 0, 5);
    AFTER(15);
    float *const w_grad = FLOAT(1912); /* f32[5x3x3x2] */
    odl_conv2d_weight_gradient(w_grad, n_grad, sample, &conv_window, 0, 5);
    AFTER(16);
    float *const w_sum = FLOAT(504); /* gradient f32[5x3x3x2] */
    odl_accumulate_gradient_f32(w_sum, w_grad, 0, 90);
    AFTER(17);

    /* fc, weight gradient */
    float *const v_grad = FLOAT(1912); /* f32[3x45] */
    odl_dense_weight_gradient(v_grad, y_grad, f, 1, 45, 3, 0, 3);
    AFTER(18);
    float *const v_sum = FLOAT(864); /* gradient f32[3x45] */
    odl_accumulate_gradient_f32(v_sum, v_grad, 0, 135);
    AFTER(19);
}

static void apply_batch(void *arena)
{
    /* conv, update */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_half *const beta_velocity = HALF(1432); /* velocity f16[5] */
    float *const beta_sum = FLOAT(480); /* gradient f32[5] */
    odl_sgd_momentum_update_f32(beta, beta_velocity, beta_sum, 0, 5, 0.01f, 0.0f, 0.5f, 0.9f, 0);
    AFTER(20);
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const w_velocity = HALF(1448); /* velocity f16[5x3x3x2] */
    float *const w_sum = FLOAT(504); /* gradient f32[5x3x3x2] */
    odl_sgd_momentum_update_f32(w, w_velocity, w_sum, 0, 90, 0.01f, 0.0f, 0.5f, 0.9f, 0);
    AFTER(21);

    /* fc, update */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const v_velocity = HALF(1632); /* velocity f16[3x45] */
    float *const v_sum = FLOAT(864); /* gradient f32[3x45] */
    odl_sgd_momentum_update_f32(v, v_velocity, v_sum, 0, 135, 0.01f, 0.0f, 0.5f, 0.9f, 0);
    AFTER(22);
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_half *const c0_velocity = HALF(1904); /* velocity f16[3] */
    float *const c0_sum = FLOAT(1408); /* gradient f32[3] */
    odl_sgd_momentum_update_f32(c0, c0_velocity, c0_sum, 0, 3, 0.01f, 0.0f, 0.5f, 0.9f, 0);
    AFTER(23);

    /* conv, update */
    odl_clear_gradient_f32(beta_sum, 5);
    AFTER(24);
    odl_clear_gradient_f32(w_sum, 90);
    AFTER(25);

    /* fc, update */
    odl_clear_gradient_f32(v_sum, 135);
    AFTER(26);
    odl_clear_gradient_f32(c0_sum, 3);
    AFTER(27);
}

static void infer(void *arena, const odl_half *sample)
{
    /* conv, forward */
    odl_half *const n = HALF(1912); /* f16[1x6x6x5] */
    odl_half *const w = HALF(16); /* weight f16[5x3x3x2] */
    odl_half *const beta = HALF(0); /* weight f16[5] */
    odl_conv2d(n, sample, w, beta, &conv_window);
    AFTER(28);

    /* relu, forward */
    odl_half *const r = HALF(1912); /* f16[1x6x6x5] */
    odl_relu(r, n, 180);
    AFTER(29);

    /* pool, forward */
    odl_half *const p = HALF(2272); /* f16[1x3x3x5] */
    odl_max_pool(p, r, &pool_window);
    AFTER(30);

    /* flat, forward */
    odl_half *const flat_transpose = HALF(1912); /* f16[1x5x3x3] */
    odl_transpose(flat_transpose, p, &flat_transpose_2);
    AFTER(31);

    /* fc, forward */
    odl_half *const y = HALF(2008); /* f16[1x3] */
    odl_half *const f = HALF(1912); /* f16[1x45] */
    odl_half *const v = HALF(200); /* weight f16[3x45] */
    odl_half *const c0 = HALF(472); /* weight f16[3] */
    odl_dense_odd(y, f, v, c0, 1, 45, 3);
    AFTER(32);
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
    train_step(arena, sample, &label);
    *loss = *FLOAT(2824);
    if (*INT(1424) == 0) { /* samples_seen: the batch is full */
        apply_batch(arena);
    }
    return ODL_OK;
}

void odl_infer(void *arena, const odl_half *sample, odl_half *output)
{
    infer(arena, sample);
    for (uint32_t i = 0; i < ODL_OUTPUT_ELEMS; i++) {
        output[i] = HALF(2008)[i];
    }
}

const struct odl_weight odl_weights[ODL_WEIGHT_COUNT] = {
    { "beta", 10, 0 },
    { "w", 180, 16 },
    { "v", 270, 200 },
    { "c0", 6, 472 },
    { "beta.sum", 20, 480 },
    { "w.sum", 360, 504 },
    { "v.sum", 540, 864 },
    { "c0.sum", 12, 1408 },
    { "samples_seen", 4, 1424 },
    { "beta.velocity", 10, 1432 },
    { "w.velocity", 180, 1448 },
    { "v.velocity", 270, 1632 },
    { "c0.velocity", 6, 1904 },
};

void *odl_weight_data(void *arena, uint32_t index)
{
    return (unsigned char *)arena + odl_weights[index].offset;
}
