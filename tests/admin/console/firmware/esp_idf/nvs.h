#pragma once
#include <stdio.h>
#include <string.h>
#include "esp_err.h"

// Flash: a file for each value, in the working directory.
typedef int nvs_handle_t;
typedef enum { NVS_READONLY, NVS_READWRITE } nvs_open_mode_t;

static inline esp_err_t nvs_open(const char *name, nvs_open_mode_t mode, nvs_handle_t *made) {
  (void)name;
  *made = mode;
  return ESP_OK;
}
static inline esp_err_t nvs_get_str(nvs_handle_t flash, const char *key, char *value, size_t *size) {
  (void)flash;
  FILE *file = fopen(key, "r");
  if (file == NULL) return ESP_FAIL;
  size_t got = fread(value, 1, *size - 1, file);
  value[got] = '\0';
  *size = got + 1;
  fclose(file);
  return ESP_OK;
}
static inline esp_err_t nvs_set_str(nvs_handle_t flash, const char *key, const char *value) {
  (void)flash;
  FILE *file = fopen(key, "w");
  if (file == NULL) return ESP_FAIL;
  fputs(value, file);
  return fclose(file) == 0 ? ESP_OK : ESP_FAIL;
}
static inline esp_err_t nvs_erase_key(nvs_handle_t flash, const char *key) {
  (void)flash;
  return remove(key) == 0 ? ESP_OK : ESP_FAIL;
}
static inline esp_err_t nvs_commit(nvs_handle_t flash) {
  (void)flash;
  return ESP_OK;
}
