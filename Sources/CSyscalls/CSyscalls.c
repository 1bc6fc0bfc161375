#define _GNU_SOURCE
#include "CSyscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
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
  sigaddset(&set, SIGHUP);
  struct sigaction action;
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
