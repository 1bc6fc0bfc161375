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

/// signalfd(2) for SIGTERM and, unless they are ignored (nohup), SIGHUP and SIGINT, which are blocked in the calling
/// thread (call it before any other thread starts). SIGPIPE and SIGXFSZ are ignored.
int borg_signal_descriptor(void);

/// Reads one signal number from the descriptor, or -1.
int borg_read_signal(int descriptor);

/// Has SIGURG, which nobody else uses, interrupt system calls and do nothing else.
void borg_prepare_waking(void);

/// Sends a thread of this process SIGURG.
void borg_wake_thread(unsigned long thread);

/// syncfs(2).
int borg_sync_file_system(int descriptor);

/// eventfd(2), non-blocking.
int borg_event_descriptor(void);

/// Adds one to an event descriptor, so that it becomes and stays readable.
int borg_raise_event(int descriptor);

/// O_PATH, which the C library shows only to those who ask for more than POSIX.
extern const int borg_o_path;

/// openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, and O_CLOEXEC; without follows_links also
/// RESOLVE_NO_SYMLINKS. `mode` counts with O_CREAT only.
int borg_open_beneath(int directory, const char *name, int flags, int mode, int follows_links);

/// renameat2(2) with RENAME_NOREPLACE.
int borg_rename_new(int directory, const char *name, int new_directory, const char *new_name);

/// Landlock's version in this kernel; 0 or less if there is none.
int borg_landlock_version(void);

/// What a process under Landlock may do below a directory.
enum borg_landlock_access {
  /// Read files and directories.
  borg_landlock_read,
  /// That, and write, create, rename and remove files and directories; no links, devices or sockets.
  borg_landlock_write,
  /// Remove files, and nothing else.
  borg_landlock_remove
};

/// A ruleset's descriptor, for all file accesses that this kernel's version knows and we grant or deny.
int borg_landlock_ruleset(int version);

/// Adds a rule for what is below an open directory (or for an open file); -1 on failure.
int borg_landlock_allow(int ruleset, int version, int descriptor, enum borg_landlock_access access);

/// Confines the calling thread and all that it starts, for good; no new privileges from then on.
int borg_landlock_restrict(int ruleset);
