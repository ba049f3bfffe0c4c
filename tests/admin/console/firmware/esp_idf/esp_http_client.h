#pragma once
#include <stdlib.h>
#include <string.h>
#include "../http_post.h"
#include "esp_err.h"

typedef enum { HTTP_METHOD_GET, HTTP_METHOD_POST } esp_http_client_method_t;
typedef struct {
  const char *url;
  esp_http_client_method_t method;
  int timeout_ms;
  const char *cert_pem;
} esp_http_client_config_t;
typedef struct {
  const char *url;
  char type[64], answer[4096];
  int status;
} *esp_http_client_handle_t;

static inline esp_http_client_handle_t esp_http_client_init(const esp_http_client_config_t *config) {
  esp_http_client_handle_t made = calloc(1, sizeof *made);
  if (made != NULL) made->url = config->url;
  return made;
}
static inline esp_err_t esp_http_client_set_header(esp_http_client_handle_t client, const char *name, const char *value) {
  (void)name;
  snprintf(client->type, sizeof client->type, "%s", value);
  return ESP_OK;
}
static inline esp_err_t esp_http_client_open(esp_http_client_handle_t client, int length) {
  (void)client;
  return length >= 0 ? ESP_OK : ESP_FAIL;
}
static inline int esp_http_client_write(esp_http_client_handle_t client, const char *body, int length) {
  client->status = http_post(client->url, client->type, body, (size_t)length, client->answer, sizeof client->answer);
  return client->status < 0 ? -1 : length;
}
static inline long esp_http_client_fetch_headers(esp_http_client_handle_t client) {
  return (long)strlen(client->answer);
}
static inline int esp_http_client_read_response(esp_http_client_handle_t client, char *into, int size) {
  int length = (int)strlen(client->answer);
  if (length > size) length = size;
  memcpy(into, client->answer, (size_t)length);
  return length;
}
static inline int esp_http_client_get_status_code(esp_http_client_handle_t client) { return client->status; }
static inline esp_err_t esp_http_client_cleanup(esp_http_client_handle_t client) {
  free(client);
  return ESP_OK;
}
