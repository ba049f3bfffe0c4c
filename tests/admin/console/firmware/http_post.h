// What the firmware's HTTP clients do, with sockets of this machine: one POST, one answer.
#pragma once
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The status, or -1; the answer's body into `answer`, cut to its size.
static int http_post(const char *url, const char *type, const char *body, size_t length, char *answer, size_t size) {
  char host[256], port[16] = "80", path[1024], head[2048];
  static char got[65536];
  if (sscanf(url, "http://%255[^:/]:%15[0-9]%1023s", host, port, path) != 3) return -1;
  struct addrinfo hints, *found = NULL;
  memset(&hints, 0, sizeof hints);
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host, port, &hints, &found) != 0) return -1;
  int channel = socket(found->ai_family, found->ai_socktype, 0);
  int made = connect(channel, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (made != 0) {
    close(channel);
    return -1;
  }
  snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
           "Connection: close\r\n\r\n", path, host, port, type, length);
  if (write(channel, head, strlen(head)) < 0 || write(channel, body, length) != (ssize_t)length) return -1;
  size_t held = 0;
  for (ssize_t part; (part = read(channel, got + held, sizeof got - 1 - held)) > 0;) held += (size_t)part;
  close(channel);
  got[held] = '\0';
  const char *end = strstr(got, "\r\n\r\n");
  int status;
  if (end == NULL || sscanf(got, "HTTP/1.1 %d", &status) != 1) return -1;
  snprintf(answer, size, "%s", end + 4);
  return status;
}
