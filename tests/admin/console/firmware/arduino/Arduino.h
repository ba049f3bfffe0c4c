// As much of the ESP32's Arduino core as the sketch uses, on this machine.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

class String {
 public:
  String(const char *text = "") : text_(text) {}
  String(const std::string &text) : text_(text) {}
  explicit String(int number) : text_(std::to_string(number)) {}
  const char *c_str() const { return text_.c_str(); }
  unsigned int length() const { return text_.size(); }
  char operator[](unsigned int at) const { return text_[at]; }
  String &operator+=(char sign) { text_ += sign; return *this; }
  String &operator+=(const char *text) { text_ += text; return *this; }
  String &operator+=(const String &other) { text_ += other.text_; return *this; }
  bool operator==(const char *text) const { return text_ == text; }
  int indexOf(const String &wanted, unsigned int from = 0) const {
    size_t found = text_.find(wanted.text_, from);
    return found == std::string::npos ? -1 : static_cast<int>(found);
  }
  String substring(unsigned int from, unsigned int to) const { return text_.substr(from, to - from); }
  void replace(const String &old, const String &with) {
    for (size_t at = 0; (at = text_.find(old.text_, at)) != std::string::npos; at += with.text_.size())
      text_.replace(at, old.text_.size(), with.text_);
  }
  friend String operator+(String left, const String &right) { return left += right; }

 private:
  std::string text_;
};

struct Port {
  void begin(unsigned long) {}
  void println(const String &line) { std::printf("%s\n", line.c_str()); std::fflush(stdout); }
};
inline Port Serial;

inline uint32_t esp_random() {
  static std::random_device source;
  return source();
}
inline void delay(unsigned long) { std::exit(3); }  // nothing here is worth waiting for

void setup();
void loop();
