/*
 * The cluster's own instructions on a core that lacks them.
 */
#ifndef ODL_TRANSLATE_H
#define ODL_TRANSLATE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * If the instruction at pc is one that PULP's cluster cores have beyond RV32IMC_Zfinx_Zhinx, writes a piece of code that
 * does the same and puts a jump to it in the instruction's place. False if it is another, or if there is no room left
 * (odl_translations_end); then nothing has changed.
 */
bool odl_translate(uint32_t pc);

#endif
