#define _GNU_SOURCE
#include "CSyscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

int borg_set_pipe_size(int descriptor, int size) { return fcntl(descriptor, F_SETPIPE_SZ, size); }

int borg_no_access_time(void) { return O_NOATIME; }

int borg_file_system(int descriptor, int64_t *type, uint64_t *available) {
  struct statfs status;
  if (fstatfs(descriptor, &status) != 0) return -1;
  *type = (int64_t)status.f_type;
  *available = (uint64_t)status.f_bavail * (uint64_t)status.f_bsize;
  return 0;
}

int borg_start_writeback(int descriptor, int64_t offset, int64_t length) {
  return sync_file_range(descriptor, offset, length, SYNC_FILE_RANGE_WRITE);
}

uint64_t borg_hardware_address(void) {
  int socket_descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket_descriptor < 0) return 0;
  struct ifreq interfaces[64];
  struct ifconf configuration = {.ifc_len = sizeof interfaces};
  configuration.ifc_req = interfaces;
  uint64_t address = 0;
  if (ioctl(socket_descriptor, SIOCGIFCONF, &configuration) == 0) {
    size_t count = (size_t)configuration.ifc_len / sizeof(struct ifreq);
    for (size_t index = 0; index < count && address == 0; index++) {
      struct ifreq request;
      memset(&request, 0, sizeof request);
      memcpy(request.ifr_name, interfaces[index].ifr_name, IFNAMSIZ);
      if (ioctl(socket_descriptor, SIOCGIFHWADDR, &request) != 0) continue;
      for (int byte = 0; byte < 6; byte++)
        address = address << 8 | (uint8_t)request.ifr_hwaddr.sa_data[byte];
    }
  }
  close(socket_descriptor);
  return address;
}

int borg_signal_descriptor(void) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // A file-size limit then shows as EFBIG instead of killing the server.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  struct sigaction action;
  if (sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  if (sigaction(SIGINT, NULL, &action) == 0 && action.sa_handler != SIG_IGN) sigaddset(&set, SIGINT);
  if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) return -1;
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int borg_read_signal(int descriptor) {
  struct signalfd_siginfo information;
  ssize_t count = read(descriptor, &information, sizeof information);
  return count == (ssize_t)sizeof information ? (int)information.ssi_signo : -1;
}

int borg_sync_file_system(int descriptor) { return syncfs(descriptor); }

int borg_event_descriptor(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int borg_raise_event(int descriptor) { return eventfd_write(descriptor, 1); }

const int borg_o_path = O_PATH;

int borg_open_beneath(int directory, const char *name, int flags, int mode, int follows_links) {
  struct open_how how = {
      .flags = (uint64_t)(flags | O_CLOEXEC),
      .mode = flags & O_CREAT ? (uint64_t)mode : 0,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (follows_links ? 0 : RESOLVE_NO_SYMLINKS),
  };
  return (int)syscall(SYS_openat2, directory, name, &how, sizeof how);
}

int borg_rename_new(int directory, const char *name, int new_directory, const char *new_name) {
  return (int)syscall(SYS_renameat2, directory, name, new_directory, new_name, 1);  // RENAME_NOREPLACE
}

// Landlock's interface, from the kernel's documentation (userspace-api/landlock): the headers of the system
// that builds may be older than the kernel that runs.
struct landlock_ruleset {
  uint64_t handled_access_fs;
};
struct landlock_path {
  uint64_t allowed_access;
  int32_t parent_fd;
} __attribute__((packed));

enum {
  landlock_execute = 1 << 0,
  landlock_write_file = 1 << 1,
  landlock_read_file = 1 << 2,
  landlock_read_dir = 1 << 3,
  landlock_remove_dir = 1 << 4,
  landlock_remove_file = 1 << 5,
  landlock_make_dir = 1 << 7,
  landlock_make_reg = 1 << 8,
  landlock_all_of_version_1 = (1 << 13) - 1,
  landlock_refer = 1 << 13,     // version 2: rename and link between directories
  landlock_truncate = 1 << 14,  // version 3
  // What a rule for something that is no directory may hold.
  landlock_for_files = landlock_execute | landlock_write_file | landlock_read_file | landlock_truncate,
};

static uint64_t handled(int version) {
  return landlock_all_of_version_1 | (version >= 2 ? landlock_refer : 0) | (version >= 3 ? landlock_truncate : 0);
}

int borg_landlock_version(void) {
  return (int)syscall(444, NULL, 0, 1);  // landlock_create_ruleset with LANDLOCK_CREATE_RULESET_VERSION
}

int borg_landlock_ruleset(int version) {
  struct landlock_ruleset ruleset = {.handled_access_fs = handled(version)};
  return (int)syscall(444, &ruleset, sizeof ruleset, 0);
}

int borg_landlock_allow(int ruleset, int version, int descriptor, enum borg_landlock_access access) {
  const uint64_t reading = landlock_read_file | landlock_read_dir;
  const uint64_t writing = reading | landlock_write_file | landlock_remove_dir | landlock_remove_file |
                           landlock_make_dir | landlock_make_reg | landlock_refer | landlock_truncate;
  struct landlock_path path = {.parent_fd = descriptor};
  switch (access) {
    case borg_landlock_read: path.allowed_access = reading; break;
    case borg_landlock_write: path.allowed_access = writing; break;
    case borg_landlock_remove: path.allowed_access = landlock_remove_file; break;
  }
  path.allowed_access &= handled(version);
  struct stat status;
  if (fstat(descriptor, &status) != 0) return -1;
  if (!S_ISDIR(status.st_mode)) path.allowed_access &= landlock_for_files;
  return (int)syscall(445, ruleset, 1, &path, 0);  // landlock_add_rule with LANDLOCK_RULE_PATH_BENEATH
}

int borg_landlock_restrict(int ruleset) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return (int)syscall(446, ruleset, 0);  // landlock_restrict_self
}

static void woken(int number) { (void)number; }

void borg_prepare_waking(void) {
  struct sigaction action = {0};
  action.sa_handler = woken;  // Without SA_RESTART: that calls return is all there is to it.
  sigemptyset(&action.sa_mask);
  sigaction(SIGURG, &action, NULL);
}

void borg_wake_thread(unsigned long thread) { pthread_kill((pthread_t)thread, SIGURG); }
