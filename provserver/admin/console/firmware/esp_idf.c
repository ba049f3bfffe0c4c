// main.c of an ESP-IDF project. The request's nonce is saved in flash before the device asks, so that a lost answer
// harms nothing. example_connect() is of ESP-IDF's component protocol_examples_common; the WiFi is set in menuconfig.
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "esp_err.h"
#include "esp_event.h"
#include "esp_http_client.h"
#include "esp_log.h"
#include "esp_mac.h"
#include "esp_netif.h"
#include "esp_random.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "nvs.h"
#include "nvs_flash.h"
#include "protocol_examples_common.h"

static const char SERVER[] = @SERVER@;
static const char PROVISION_KEY[] = @KEY@;
static const char PROVISION_SECRET[] = @SECRET@;
static const char NAME_PREFIX[] = @PREFIX@;  // the rest of a device's name is its MAC address
@ROOT@
static const char TAG[] = "device";
static nvs_handle_t flash;
static char url[512], request[2048], answer[2048], nonce[33], token[129];

// Sends JSON; returns the HTTP status, or -1 when no answer came.
static int post(const char *path, const char *body) {
  int status = -1, length = strlen(body);
  snprintf(url, sizeof url, "%s%s", SERVER, path);
  esp_http_client_config_t config = {.url = url, .method = HTTP_METHOD_POST, .timeout_ms = 10000@ROOT_MEMBER@};
  esp_http_client_handle_t client = esp_http_client_init(&config);
  if (client == NULL) return -1;
  answer[0] = '\0';
  esp_http_client_set_header(client, "Content-Type", "application/json");
  if (esp_http_client_open(client, length) == ESP_OK && esp_http_client_write(client, body, length) == length &&
      esp_http_client_fetch_headers(client) >= 0) {
    int got = esp_http_client_read_response(client, answer, sizeof answer - 1);
    answer[got > 0 ? got : 0] = '\0';
    status = esp_http_client_get_status_code(client);
  }
  esp_http_client_cleanup(client);
  return status;
}

// Adds a member with a text to the JSON in request.
static void add(const char *name, const char *text) {
  size_t at = strlen(request);
  at += snprintf(request + at, sizeof request - at, "%s\"%s\":\"", at == 0 ? "{" : ",", name);
  for (; *text != '\0' && at < sizeof request - 4; text++) {
    if (*text == '"' || *text == '\\') request[at++] = '\\';
    request[at++] = *text;
  }
  request[at++] = '"';
  request[at] = '\0';
}

// A text member of the answer into `value`; false when it has none.
static bool member(const char *name, char *value, size_t size) {
  char start[40];
  snprintf(start, sizeof start, "\"%s\":\"", name);
  const char *from = strstr(answer, start);
  if (from == NULL) return false;
  from += strlen(start);
  size_t length = strcspn(from, "\"");
  if (length >= size) return false;
  memcpy(value, from, length);
  value[length] = '\0';
  return true;
}

static void save(const char *name, const char *value) {
  ESP_ERROR_CHECK(nvs_set_str(flash, name, value));
  ESP_ERROR_CHECK(nvs_commit(flash));
}

// Asks until the server has said yes or no; false for no.
static bool provision(void) {
  unsigned char mac[6];
  char name[80], said[32];
  size_t size = sizeof nonce;
  if (nvs_get_str(flash, "nonce", nonce, &size) != ESP_OK) {
    for (int i = 0; i < 4; i++) snprintf(nonce + 8 * i, 9, "%08x", (unsigned int)esp_random());
    save("nonce", nonce);
  }
  ESP_ERROR_CHECK(esp_read_mac(mac, ESP_MAC_WIFI_STA));
  snprintf(name, sizeof name, "%s%02X%02X%02X%02X%02X%02X", NAME_PREFIX, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
  request[0] = '\0';
  add("deviceName", name);
  add("provisionDeviceKey", PROVISION_KEY);
  add("provisionDeviceSecret", PROVISION_SECRET);
  add("requestNonce", nonce);
  strcat(request, "}");
  for (;;) {
    int status = post("/api/v1/provision", request);
    if (!member("status", said, sizeof said)) said[0] = '\0';
    if (strcmp(said, "SUCCESS") == 0) return member("accessToken", token, sizeof token);
    ESP_LOGE(TAG, "provisioning: %d %s", status, answer);
    if (status == 400) return false;
    if (status == 200 && (strcmp(said, "FAILURE") == 0 || strcmp(said, "NOT_FOUND") == 0)) return false;
    vTaskDelay(pdMS_TO_TICKS(5000 + esp_random() % 10000));  // no answer, a busy server, or an approval to come
  }
}

void app_main(void) {
  ESP_ERROR_CHECK(nvs_flash_init());
  ESP_ERROR_CHECK(esp_netif_init());
  ESP_ERROR_CHECK(esp_event_loop_create_default());
  ESP_ERROR_CHECK(example_connect());
  ESP_ERROR_CHECK(nvs_open("provserver", NVS_READWRITE, &flash));

  size_t size = sizeof token;
  if (nvs_get_str(flash, "token", token, &size) != ESP_OK) {
    if (!provision()) return;
    save("token", token);
    nvs_erase_key(flash, "nonce");
    nvs_commit(flash);
  }
  char path[160];
  snprintf(path, sizeof path, "/api/v1/%s/telemetry", token);
  int status = post(path, "{\"temperature\":21.5}");
  if (status == 200) {
    ESP_LOGI(TAG, "The first telemetry is sent.");
  } else {
    ESP_LOGE(TAG, "telemetry: %d", status);
  }
}
