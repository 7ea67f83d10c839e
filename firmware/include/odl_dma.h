/*
 * Transfers between the memory next to the cores (l1) and everything else (l2), while the cores compute.
 *
 * Every core of a team calls these functions; one of them acts, and odl_dma_wait tells that one alone: the others know
 * it after the next barrier. From start to wait, nobody may write what a transfer reads, nor touch what it writes. At
 * most 16 transfers are under way at once. A transfer is of at least one byte and at most 64 KiB, from any address to any.
 *
 * Where there is no DMA engine, the copy is made as late as this contract allows: in odl_dma_wait. Whoever forgets to
 * wait, or changes a source too early, gets wrong bits on every machine.
 */
#ifndef ODL_DMA_H
#define ODL_DMA_H

#include <stdint.h>

#if __has_include("odl_port_dma.h")
#include "odl_port_dma.h"
#else

/* A transfer under way: n_rows rows of row_bytes, dense in l1, l2_stride bytes apart in l2. */
typedef struct {
    unsigned char *to;
    const unsigned char *from;
    uint32_t n_rows;
    uint32_t row_bytes;
    uint32_t to_stride;
    uint32_t from_stride;
} odl_transfer;

/* n_rows rows of row_bytes: dense in l1, l2_stride bytes apart in l2. */
static inline odl_transfer odl_dma_in_rows(
    void *l1, const void *l2, uint32_t n_rows, uint32_t row_bytes, uint32_t l2_stride)
{
    return (odl_transfer){l1, l2, n_rows, row_bytes, row_bytes, l2_stride};
}

static inline odl_transfer odl_dma_out_rows(
    const void *l1, void *l2, uint32_t n_rows, uint32_t row_bytes, uint32_t l2_stride)
{
    return (odl_transfer){l2, l1, n_rows, row_bytes, l2_stride, row_bytes};
}

static inline odl_transfer odl_dma_in(void *l1, const void *l2, uint32_t n_bytes)
{
    return odl_dma_in_rows(l1, l2, 1, n_bytes, 0);
}

static inline odl_transfer odl_dma_out(const void *l1, void *l2, uint32_t n_bytes)
{
    return odl_dma_out_rows(l1, l2, 1, n_bytes, 0);
}

static inline void odl_dma_wait(odl_transfer transfer)
{
    for (uint32_t row = 0; row < transfer.n_rows; row++) {
        for (uint32_t i = 0; i < transfer.row_bytes; i++) {
            transfer.to[i] = transfer.from[i];
        }
        transfer.to += transfer.to_stride;
        transfer.from += transfer.from_stride;
    }
}

#endif

#endif
