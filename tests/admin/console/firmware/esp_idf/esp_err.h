// As much of ESP-IDF as the program uses, on this machine.
#pragma once
#include <stdio.h>
#include <stdlib.h>

typedef int esp_err_t;
#define ESP_OK 0
#define ESP_FAIL -1
#define ESP_ERROR_CHECK(made)                     \
  do {                                            \
    if ((made) != ESP_OK) {                       \
      fprintf(stderr, "failed: %s\n", #made);     \
      exit(4);                                    \
    }                                             \
  } while (0)
