// C shims for system calls that Swift cannot call or whose constants it does not import.
#pragma once
#include <stdint.h>
#include <stddef.h>

/// fcntl(F_SETPIPE_SZ); the new size or -1.
int borg_set_pipe_size(int descriptor, int size);

/// O_NOATIME.
int borg_no_access_time(void);

/// statfs(2): the file system's type into *type, bytes available to this user into *available.
int borg_file_system(int descriptor, int64_t *type, uint64_t *available);

/// sync_file_range(2) with SYNC_FILE_RANGE_WRITE: starts write-back of a range and does not wait.
int borg_start_writeback(int descriptor, int64_t offset, int64_t length);

/// The first non-zero MAC address among the interfaces with an IPv4 address, in the kernel's order,
/// as libuuid (and so Python's uuid.getnode) picks it; 0 if there is none.
uint64_t borg_hardware_address(void);

/// signalfd(2) for SIGTERM, SIGHUP and, unless it is ignored, SIGINT, which are blocked in the calling
/// thread (call it before any other thread starts). SIGPIPE and SIGXFSZ are ignored.
int borg_signal_descriptor(void);

/// Reads one signal number from the descriptor, or -1.
int borg_read_signal(int descriptor);

/// syncfs(2).
int borg_sync_file_system(int descriptor);

/// eventfd(2), non-blocking.
int borg_event_descriptor(void);

/// Adds one to an event descriptor, so that it becomes and stays readable.
int borg_raise_event(int descriptor);
