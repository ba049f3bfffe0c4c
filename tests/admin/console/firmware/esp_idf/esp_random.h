#pragma once
#include <stdint.h>
#include <sys/random.h>
static inline uint32_t esp_random(void) {
  uint32_t made = 0;
  return getrandom(&made, sizeof made, 0) == sizeof made ? made : 0;
}
