// C shims for unix sockets: addresses, credentials and options are structures and constants that Swift does not import.
#pragma once
#include <stdint.h>
#include <stddef.h>

/// Bytes in the longest path that a socket can have.
int borg_socket_path_limit(void);

/// A new stream socket, bound to a path that must not exist, not listening yet; -1 on failure.
int borg_socket_bind(const uint8_t *path, size_t length);

/// listen(2) with the longest queue there is.
int borg_socket_listen(int descriptor);

/// A new stream socket, connected without waiting; -1 on failure (EAGAIN: the queue of a living server is full).
int borg_socket_connect(const uint8_t *path, size_t length);

/// The next client's connection, which does not block; -1 on failure (EAGAIN: there is none).
int borg_socket_accept(int descriptor);

/// Who is at the other end: process id and user id, as they were when it connected.
int borg_socket_peer(int descriptor, int64_t *process, int64_t *user);

/// Makes an inherited descriptor ours (no blocking, closed on exec); 0 if it is no listening unix stream socket.
int borg_socket_adopt(int descriptor);

/// The path that a socket is bound to, without a NUL at its end; the count, or -1.
int borg_socket_path(int descriptor, uint8_t *path, size_t capacity);

/// Sends one datagram to a path, or to an abstract name (which begins with a NUL).
int borg_socket_send_notice(const uint8_t *path, size_t length, const uint8_t *message, size_t count);
