#define _GNU_SOURCE
#include "CSockets.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

// Fills in an address; its length, or 0 if the path does not fit. An abstract name begins with a NUL.
static socklen_t address_of(const uint8_t *path, size_t length, struct sockaddr_un *address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (length == 0 || length >= sizeof address->sun_path) return 0;
  memcpy(address->sun_path, path, length);
  // The length of an abstract name counts, that of a path ends at its NUL.
  size_t terminated = path[0] == 0 ? length : length + 1;
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + terminated);
}

static int failing(int descriptor, int error) {
  if (descriptor >= 0) close(descriptor);
  errno = error;
  return -1;
}

int borg_socket_path_limit(void) { return (int)sizeof(((struct sockaddr_un *)0)->sun_path) - 1; }

enum end { listening_end, connecting_end };

// A new socket at one end of an address.
static int stream_socket(const uint8_t *path, size_t length, enum end end) {
  struct sockaddr_un address;
  socklen_t size = address_of(path, length, &address);
  if (size == 0) return failing(-1, ENAMETOOLONG);
  int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return -1;
  const struct sockaddr *name = (const struct sockaddr *)&address;
  int result = end == listening_end ? bind(descriptor, name, size) : connect(descriptor, name, size);
  return result == 0 ? descriptor : failing(descriptor, errno);
}

int borg_socket_bind(const uint8_t *path, size_t length) { return stream_socket(path, length, listening_end); }

int borg_socket_listen(int descriptor) { return listen(descriptor, SOMAXCONN); }

int borg_socket_connect(const uint8_t *path, size_t length) { return stream_socket(path, length, connecting_end); }

int borg_socket_accept(int descriptor) { return accept4(descriptor, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

int borg_socket_peer(int descriptor, int64_t *process, int64_t *user) {
  struct ucred credentials;
  socklen_t size = sizeof credentials;
  if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return -1;
  *process = credentials.pid;
  *user = credentials.uid;
  return 0;
}

static int option(int descriptor, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(descriptor, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

int borg_socket_adopt(int descriptor) {
  if (option(descriptor, SO_DOMAIN) != AF_UNIX || option(descriptor, SO_TYPE) != SOCK_STREAM ||
      option(descriptor, SO_ACCEPTCONN) != 1)
    return 0;
  int flags = fcntl(descriptor, F_GETFL);
  return flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 &&
         fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
}

int borg_socket_path(int descriptor, uint8_t *path, size_t capacity) {
  struct sockaddr_un address;
  socklen_t size = sizeof address;
  if (getsockname(descriptor, (struct sockaddr *)&address, &size) != 0) return -1;
  if (size <= offsetof(struct sockaddr_un, sun_path)) return 0;
  size_t length = size - offsetof(struct sockaddr_un, sun_path);
  if (length > sizeof address.sun_path) length = sizeof address.sun_path;
  if (address.sun_path[0] != 0) length = strnlen(address.sun_path, length);
  if (length > capacity) length = capacity;
  memcpy(path, address.sun_path, length);
  return (int)length;
}

int borg_socket_send_notice(const uint8_t *path, size_t length, const uint8_t *message, size_t count) {
  struct sockaddr_un address;
  socklen_t size = address_of(path, length, &address);
  if (size == 0) return failing(-1, ENAMETOOLONG);
  int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  // Whoever listens may be slow; it may not keep us for good.
  struct timeval patience = {.tv_sec = 2};
  setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  ssize_t sent = sendto(descriptor, message, count, MSG_NOSIGNAL, (struct sockaddr *)&address, size);
  if (sent < 0) return failing(descriptor, errno);
  close(descriptor);
  return 0;
}
