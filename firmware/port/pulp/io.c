/*
 * The runner on core 0 of a PULP cluster: files through RISC-V semihosting, the console through the simulator's
 * character device, the end of the run through the chip's status register.
 */
#include "machine.h"
#include "port.h"

enum semihosting_call { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_SEEK = 0x0a };

enum semihosting_mode { MODE_READ_BINARY = 1, MODE_UPDATE_BINARY = 3, MODE_WRITE_BINARY = 5 };

/* The three instructions are the trap that a debugger or simulator knows. Uncompressed and inside one
 * 16-byte line, so that they never straddle two pages. */
static int32_t semihosting(enum semihosting_call call, const void *arguments)
{
    register uint32_t a0 __asm__("a0") = (uint32_t)call;
    register const void *a1 __asm__("a1") = arguments;
    __asm__ volatile(".option push\n"
                     ".option norvc\n"
                     ".balign 16\n"
                     "slli x0, x0, 0x1f\n"
                     "ebreak\n"
                     "srai x0, x0, 7\n"
                     ".option pop\n"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return (int32_t)a0;
}

static uint32_t length(const char *text)
{
    uint32_t n = 0;
    while (text[n] != '\0') {
        n++;
    }
    return n;
}

int32_t odl_port_open(const char *path, enum odl_port_mode mode)
{
    static const uint32_t how[] = {
        [ODL_PORT_READ] = MODE_READ_BINARY, [ODL_PORT_WRITE] = MODE_WRITE_BINARY, [ODL_PORT_UPDATE] = MODE_UPDATE_BINARY,
    };
    uint32_t arguments[] = {(uint32_t)path, how[mode], length(path)};
    return semihosting(SYS_OPEN, arguments);
}

uint32_t odl_port_read(int32_t file, void *data, uint32_t n_bytes)
{
    uint32_t arguments[] = {(uint32_t)file, (uint32_t)data, n_bytes};
    int32_t n_missing = semihosting(SYS_READ, arguments);
    return n_missing < 0 ? 0u : n_bytes - (uint32_t)n_missing;
}

bool odl_port_write(int32_t file, const void *data, uint32_t n_bytes)
{
    uint32_t arguments[] = {(uint32_t)file, (uint32_t)data, n_bytes};
    return n_bytes == 0u || semihosting(SYS_WRITE, arguments) == 0;
}

bool odl_port_seek(int32_t file, uint32_t offset)
{
    uint32_t arguments[] = {(uint32_t)file, offset};
    return semihosting(SYS_SEEK, arguments) == 0;
}

void odl_port_close(int32_t file)
{
    uint32_t arguments[] = {(uint32_t)file};
    (void)semihosting(SYS_CLOSE, arguments);
}

_Noreturn void odl_port_exit(uint32_t status)
{
    EXIT = EXIT_NOW | status;
    for (;;) {
    }
}

/* Characters come out a line at a time, by core. */
void odl_port_console(const char *text)
{
    uint32_t hart;
    __asm__("csrr %0, mhartid" : "=r"(hart));
    volatile uint32_t *out = (volatile uint32_t *)(CHARACTER_OUT | (hart & 31u) << 3 | (hart >> 5) << 7);
    for (; *text != '\0'; text++) {
        *out = (uint8_t)*text;
    }
}

ODL_LOCAL uint32_t odl_dma_waited;

uint32_t odl_port_counter(void)
{
    uint32_t cycles;
    __asm__ volatile("csrr %0, mcycle" : "=r"(cycles));
    return cycles;
}

static uint32_t used_bytes(const volatile uint32_t *bottom, uint32_t n_bytes)
{
    const volatile uint32_t *word = bottom;
    const volatile uint32_t *top = bottom + n_bytes / 4u;
    while (word < top && *word == STACK_PAINT) {
        word++;
    }
    return (uint32_t)(top - word) * 4u;
}

static bool guard_intact(const uint32_t *bottom)
{
    for (uint32_t i = 0; i < STACK_GUARD_WORDS; i++) {
        if (bottom[i] != STACK_PAINT) {
            return false;
        }
    }
    return true;
}

/* The deepest of the stacks in L1: that of core 0 in L2 is the runner's alone. */
uint32_t odl_port_stack_bytes(void)
{
    uint32_t deepest = 0;
    for (uint32_t core = 0; core < ODL_CORES; core++) {
        uint32_t used = used_bytes(stack_of(core), STACK_BYTES);
        deepest = used > deepest ? used : deepest;
    }
    return deepest;
}

bool odl_port_stack_intact(void)
{
    bool intact = guard_intact(odl_runner_stack_bottom);
    for (uint32_t core = 0; core < ODL_CORES; core++) {
        intact = intact && guard_intact(stack_of(core));
    }
    return intact;
}
