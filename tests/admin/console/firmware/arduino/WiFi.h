#pragma once
#include "Arduino.h"

enum { WL_CONNECTED = 3 };

struct Station {
  void begin(const char *, const char *) {}
  int status() { return WL_CONNECTED; }
  String macAddress() { return "02:00:00:00:00:01"; }
};
inline Station WiFi;
