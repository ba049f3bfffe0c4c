#pragma once
#include "Arduino.h"
#include <fstream>
#include <sstream>

// Flash: a file for each value, in the working directory.
class Preferences {
 public:
  bool begin(const char *name, bool) { name_ = name; return true; }
  String getString(const char *key, const String &otherwise) {
    std::ifstream file(path(key));
    if (!file) return otherwise;
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  size_t putString(const char *key, const String &value) {
    std::ofstream(path(key)) << value.c_str();
    return value.length();
  }
  bool remove(const char *key) { return std::remove(path(key).c_str()) == 0; }

 private:
  std::string path(const char *key) { return name_ + "." + key; }
  std::string name_;
};
