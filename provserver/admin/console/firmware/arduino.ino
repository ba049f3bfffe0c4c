// Arduino on an ESP32. The request's nonce is saved in flash before the device asks, so that a lost answer harms nothing.
#include <HTTPClient.h>
#include <Preferences.h>
#include <WiFi.h>

const char WIFI_NAME[] = "your WiFi";
const char WIFI_PASSWORD[] = "its password";
const char SERVER[] = @SERVER@;
const char PROVISION_KEY[] = @KEY@;
const char PROVISION_SECRET[] = @SECRET@;
const char NAME_PREFIX[] = @PREFIX@;  // the rest of a device's name is its MAC address
@ROOT@
Preferences flash;
String answer;

// A text as JSON has it.
String quoted(const String &text) {
  String made = "\"";
  for (unsigned int i = 0; i < text.length(); i++) {
    if (text[i] == '"' || text[i] == '\\') made += '\\';
    made += text[i];
  }
  return made + "\"";
}

// Sends JSON; returns the HTTP status, or a negative number when no answer came.
int post(const String &path, const String &body) {
  HTTPClient http;
  http.begin(String(SERVER) + path@ROOT_ARGUMENT@);
  http.addHeader("Content-Type", "application/json");
  int status = http.POST(body);
  answer = status > 0 ? http.getString() : String("");
  http.end();
  return status;
}

// A text member of the answer, or "" when it has none.
String member(const char *name) {
  String start = String("\"") + name + "\":\"";
  int from = answer.indexOf(start);
  if (from < 0) return "";
  from += start.length();
  return answer.substring(from, answer.indexOf("\"", from));
}

// A nonce of 128 random bits: the one in flash, or a new one that is saved first.
String savedNonce() {
  String nonce = flash.getString("nonce", "");
  if (nonce.length() == 32) return nonce;
  nonce = "";
  for (int i = 0; i < 4; i++) {
    char part[9];
    snprintf(part, sizeof part, "%08x", (unsigned int)esp_random());
    nonce += part;
  }
  flash.putString("nonce", nonce);
  return nonce;
}

// Asks until the server has said yes or no; returns the token, or "" for no.
String provision() {
  String mac = WiFi.macAddress();
  mac.replace(":", "");
  String request = "{\"deviceName\":" + quoted(String(NAME_PREFIX) + mac) +
                   ",\"provisionDeviceKey\":" + quoted(PROVISION_KEY) +
                   ",\"provisionDeviceSecret\":" + quoted(PROVISION_SECRET) +
                   ",\"requestNonce\":" + quoted(savedNonce()) + "}";
  for (;;) {
    int status = post("/api/v1/provision", request);
    String said = member("status");
    if (said == "SUCCESS") return member("accessToken");
    Serial.println("provisioning: " + String(status) + " " + answer);
    if (status == 400 || said == "FAILURE" || said == "NOT_FOUND") {
      if (status == 200 || status == 400) return "";  // the same request would be refused again
    }
    delay(5000 + esp_random() % 10000);  // no answer, a busy server, or an operator who has yet to approve
  }
}

void setup() {
  Serial.begin(115200);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  while (WiFi.status() != WL_CONNECTED) delay(100);

  flash.begin("provserver", false);
  String token = flash.getString("token", "");
  if (token.length() == 0) {
    token = provision();
    if (token.length() == 0) return;
    flash.putString("token", token);
    flash.remove("nonce");
  }
  int status = post("/api/v1/" + token + "/telemetry", "{\"temperature\":21.5}");
  Serial.println(status == 200 ? String("The first telemetry is sent.") : "telemetry: " + String(status));
}

void loop() {}
