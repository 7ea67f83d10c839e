/*
 * The runner on the developer's own machine: stdio.
 */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>

/* The runner has three files open at most, and handles are the indices here. */
static FILE *files[4];

int32_t odl_port_open(const char *path, enum odl_port_mode mode)
{
    for (int32_t i = 0; i < (int32_t)(sizeof files / sizeof files[0]); i++) {
        if (files[i] == NULL) {
            files[i] = fopen(path, mode == ODL_PORT_READ ? "rb" : mode == ODL_PORT_WRITE ? "wb" : "r+b");
            return files[i] == NULL ? -1 : i;
        }
    }
    return -1;
}

uint32_t odl_port_read(int32_t file, void *data, uint32_t n_bytes)
{
    return (uint32_t)fread(data, 1, n_bytes, files[file]);
}

bool odl_port_write(int32_t file, const void *data, uint32_t n_bytes)
{
    return fwrite(data, 1, n_bytes, files[file]) == n_bytes && fflush(files[file]) == 0;
}

bool odl_port_seek(int32_t file, uint32_t offset)
{
    return fseek(files[file], (long)offset, SEEK_SET) == 0;
}

void odl_port_close(int32_t file)
{
    (void)fclose(files[file]);
    files[file] = NULL;
}

_Noreturn void odl_port_exit(uint32_t status)
{
    _Exit((int)status); /* all is written, and a watchdog may have interrupted a write */
}

void odl_port_console(const char *text)
{
    (void)fputs(text, stderr);
}

uint32_t odl_port_counter(void)
{
    return 0;
}

uint32_t odl_port_stack_bytes(void)
{
    return 0;
}

bool odl_port_stack_intact(void)
{
    return true;
}
