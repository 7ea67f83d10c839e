/*
 * The cluster's DMA engine (mchan), for odl_dma.h. Core 0 talks to it, through a port of its own; the others pass by.
 *
 * A transfer is a counter of the engine: reading the command register takes one, of 16, and the words that follow make
 * a command; the counter's bit in the status register falls when all bytes have arrived, and is then given back.
 */
#ifndef ODL_PORT_DMA_H
#define ODL_PORT_DMA_H

#include "odl_team.h"

#include <stdint.h>

typedef uint32_t odl_transfer;

#define ODL_DMA_COMMAND (*(volatile uint32_t *)0x00204400u)
#define ODL_DMA_STATUS (*(volatile uint32_t *)0x00204404u)

/* A command: the number of bytes, and these. */
#define ODL_DMA_TO_L1 (1u << 17)
#define ODL_DMA_FORWARD (1u << 18)
#define ODL_DMA_ROWS (1u << 19) /* of the side of l2; two more words */

/* What the transfer reads is written before it starts, and what it writes is read after it ends. */
#define ODL_DMA_FENCE() __asm__ volatile("" ::: "memory")

/* Out of line: a program has many transfers, and the instruction cache is small. */
#define ODL_DMA_FUNCTION __attribute__((noinline, unused)) static

extern uint32_t odl_dma_waited; /* cycles of core 0 in odl_dma_wait so far, in a program with ODL_TRACE */

#ifdef ODL_TRACE
static inline uint32_t odl_dma_clock(void)
{
    uint32_t cycles;
    __asm__ volatile("csrr %0, mcycle" : "=r"(cycles));
    return cycles;
}
#endif

ODL_DMA_FUNCTION odl_transfer odl_dma_start(uint32_t l1, uint32_t l2, uint32_t command)
{
    if (odl_core() != 0u) {
        return 0;
    }
    ODL_DMA_FENCE();
    odl_transfer transfer = ODL_DMA_COMMAND;
    ODL_DMA_COMMAND = command | ODL_DMA_FORWARD;
    ODL_DMA_COMMAND = l1;
    ODL_DMA_COMMAND = l2;
    return transfer;
}

ODL_DMA_FUNCTION odl_transfer odl_dma_start_rows(
    uint32_t l1, uint32_t l2, uint32_t command, uint32_t row_bytes, uint32_t l2_stride)
{
    odl_transfer transfer = odl_dma_start(l1, l2, command | ODL_DMA_ROWS);
    if (odl_core() == 0u) {
        ODL_DMA_COMMAND = row_bytes;
        ODL_DMA_COMMAND = l2_stride;
    }
    return transfer;
}

static inline odl_transfer odl_dma_in(void *l1, const void *l2, uint32_t n_bytes)
{
    return odl_dma_start((uint32_t)l1, (uint32_t)l2, n_bytes | ODL_DMA_TO_L1);
}

static inline odl_transfer odl_dma_out(const void *l1, void *l2, uint32_t n_bytes)
{
    return odl_dma_start((uint32_t)l1, (uint32_t)l2, n_bytes);
}

static inline odl_transfer odl_dma_in_rows(
    void *l1, const void *l2, uint32_t n_rows, uint32_t row_bytes, uint32_t l2_stride)
{
    return odl_dma_start_rows((uint32_t)l1, (uint32_t)l2, n_rows * row_bytes | ODL_DMA_TO_L1, row_bytes, l2_stride);
}

static inline odl_transfer odl_dma_out_rows(
    const void *l1, void *l2, uint32_t n_rows, uint32_t row_bytes, uint32_t l2_stride)
{
    return odl_dma_start_rows((uint32_t)l1, (uint32_t)l2, n_rows * row_bytes, row_bytes, l2_stride);
}

ODL_DMA_FUNCTION void odl_dma_wait(odl_transfer transfer)
{
    if (odl_core() != 0u) {
        return;
    }
#ifdef ODL_TRACE
    odl_dma_waited -= odl_dma_clock();
#endif
    while ((ODL_DMA_STATUS >> transfer & 1u) != 0u) {
    }
#ifdef ODL_TRACE
    odl_dma_waited += odl_dma_clock();
#endif
    ODL_DMA_STATUS = 1u << transfer;
    ODL_DMA_FENCE();
}

#endif
