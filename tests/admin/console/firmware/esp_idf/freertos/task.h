#pragma once
#include <stdlib.h>
static inline void vTaskDelay(unsigned int ticks) {
  (void)ticks;
  exit(3);  // nothing here is worth waiting for
}
