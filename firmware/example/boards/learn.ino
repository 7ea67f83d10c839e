// Learns from a sensor, one sample each time around, and prints the loss. sensor.c is a stand-in: read yours there.
#include <odl.h>

#include "learner.h"
#include "sensor.h"

static bool is_learning;

static void report(uint32_t step, float loss)
{
    Serial.print("step ");
    Serial.print(static_cast<unsigned long>(step));
    Serial.print(": loss ");
    Serial.println(loss, 6);
}

void setup()
{
    Serial.begin(115200);
    is_learning = learner_start();
    if (!is_learning) {
        Serial.println("the arithmetic of this build is not the model's: look at the compiler's flags");
    }
}

void loop()
{
    if (is_learning && learner_run(1, sensor_acquire, report) != ODL_OK) {
        Serial.println("training stopped");
        is_learning = false;
    }
}
