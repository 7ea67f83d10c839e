/*
 * A sensor that is none: numbers drawn by arithmetic, the same on every machine. Put yours in its place.
 */
#ifndef SENSOR_H
#define SENSOR_H

#include "learner.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A learner_acquire: noise, and on every so many elements a mark that tells the class. It never runs out. */
bool sensor_acquire(odl_half sample[ODL_SAMPLE_ELEMS], learner_target target[ODL_TARGET_ELEMS]);

#ifdef __cplusplus
}
#endif

#endif
