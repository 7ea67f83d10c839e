/*
 * Learns from a sensor for a while and says how it goes: `step 3: loss 3f8ca123`, the bits of a binary32 number. Whoever
 * trains the same model on the same samples with odl gets the same bits.
 */
#include "board.h"
#include "learner.h"
#include "sensor.h"

#ifndef EXAMPLE_STEPS
#define EXAMPLE_STEPS 32u
#endif

static void write_hex(uint32_t word)
{
    char text[9];
    for (uint32_t i = 0; i < 8; i++) {
        text[i] = "0123456789abcdef"[word >> (28 - 4 * i) & 15u];
    }
    text[8] = '\0';
    board_write(text);
}

static void write_decimal(uint32_t number)
{
    char text[11];
    uint32_t at = sizeof text - 1;
    text[at] = '\0';
    do {
        text[--at] = (char)('0' + number % 10u);
        number /= 10u;
    } while (number != 0);
    board_write(&text[at]);
}

static void report(uint32_t step, float loss)
{
    board_write("step ");
    write_decimal(step);
    board_write(": loss ");
    write_hex(odl_bits32(loss));
    board_write("\n");
}

int main(void)
{
    if (!learner_start()) {
        board_write("the arithmetic of this build is not the model's: look at the compiler's flags\n");
        board_stop(1);
    }
    const enum odl_status status = learner_run(EXAMPLE_STEPS, sensor_acquire, report);
    board_write(status == ODL_OK ? "done\n" : "training stopped\n");
    board_stop((uint32_t)status);
}
