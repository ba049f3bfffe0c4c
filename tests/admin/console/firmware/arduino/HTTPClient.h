#pragma once
#include "Arduino.h"
#include "../http_post.h"

class HTTPClient {
 public:
  bool begin(const String &url) { url_ = url; return true; }
  bool begin(const String &url, const char *root) { return root != nullptr && begin(url); }
  void addHeader(const String &, const String &value) { type_ = value; }
  int POST(const String &body) {
    return http_post(url_.c_str(), type_.c_str(), body.c_str(), body.length(), answer_, sizeof answer_);
  }
  String getString() const { return answer_; }
  void end() {}

 private:
  String url_, type_;
  char answer_[4096] = "";
};
